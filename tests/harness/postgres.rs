//! A real PostgreSQL with an empty cluster of its own.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection};

use crate::parts;
use crate::ports::free_port;
use crate::process::{Program, Running};
use crate::scratch::Scratch;
use crate::world::deployed;

/// A running server; anyone on this machine may log in as `postgres`.
#[derive(Debug)]
pub struct Postgres {
    port: u16,
    server: Running,
    owner: (u32, u32),
    scratch: Scratch,
}

impl Postgres {
    /// Makes a cluster and starts a server on it; some 2 s.
    ///
    /// # Errors
    /// When Debian's package is missing or the server does not start; with the tail of its log.
    pub async fn start() -> anyhow::Result<Self> {
        let scratch = Scratch::new()?;
        // PostgreSQL refuses to run as root.
        let owner = nix::unistd::User::from_name("nobody")?.context("there is no user 'nobody'")?;
        let owner = (owner.uid.as_raw(), owner.gid.as_raw());
        let (data, sockets) = (scratch.folder_of("data", owner.0)?, scratch.folder_of("run", owner.0)?);
        program("initdb", owner)?
            .args([
                "--username=postgres",
                "--auth=trust",
                "--encoding=UTF8",
                "--locale=C",
                "--no-sync",
                "--pgdata",
            ])
            .arg(&data)
            .output()
            .await?;
        let port = free_port();
        let server = program("postgres", owner)?.arg("-D").arg(&data).arg("-k").arg(&sockets).args([
            "-p",
            &port.to_string(),
            "-c",
            "listen_addresses=127.0.0.1",
            // The cluster lives as long as the test.
            "-c",
            "fsync=off",
            "-c",
            "shared_buffers=32MB",
        ]);
        let mut server = server.start(&scratch.join("postgres.log"))?;
        let ready = program("pg_isready", owner)?.args(["-q", "-h", "127.0.0.1", "-p", &port.to_string()]);
        server.ready(Duration::from_secs(30), || ready.output()).await?;
        Ok(Self { port, server, owner, scratch })
    }

    /// The address of a database, as sqlx and libpq take it. `postgres` is always there.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// The folder with its Unix socket, for `?host=`. Only its owner and root may enter.
    #[must_use]
    pub fn socket_folder(&self) -> PathBuf {
        self.scratch.join("run")
    }

    /// Makes an empty database and returns its address.
    ///
    /// # Errors
    /// When there is one with that name.
    pub async fn create_database(&self, name: &str) -> anyhow::Result<String> {
        let call = program("createdb", self.owner)?.args(["-h", "127.0.0.1", "-U", "postgres", "-p"]);
        call.arg(self.port.to_string()).arg(name).output().await?;
        Ok(self.url(name))
    }

    /// Makes a database with the roles of `deploy/postgres` and the schema, as an operator makes them. Once per server:
    /// the roles are the server's.
    ///
    /// # Errors
    /// When there is one already or the binary is missing.
    pub async fn create_migrated_database(&self, name: &str) -> anyhow::Result<()> {
        let url = self.create_database(name).await?;
        let mut root = PgConnection::connect(&url).await?;
        sqlx::raw_sql(AssertSqlSafe(deployed("postgres/roles.sql")?)).execute(&mut root).await?;
        let owner = url.replace("postgres@", "dayfly_owner@");
        let migrate =
            Program::new(parts::binary("dayfly-broker")?).args(["migrate", "--tls", "off", "--url"]);
        migrate.arg(owner).output().await.map(drop)
    }

    /// Makes a database that is as this one is now. Nobody may be connected to it.
    ///
    /// # Errors
    /// When somebody is, or there is one with that name.
    pub async fn copy_database(&self, from: &str, name: &str) -> anyhow::Result<String> {
        let call = program("createdb", self.owner)?.args(["-h", "127.0.0.1", "-U", "postgres", "-p"]);
        call.arg(self.port.to_string()).args(["-T", from, name]).output().await?;
        Ok(self.url(name))
    }

    /// What the server has logged up to now.
    #[must_use]
    pub fn log(&self) -> String {
        self.server.log()
    }
}

fn program(name: &str, owner: (u32, u32)) -> anyhow::Result<Program> {
    let path = parts::peer("postgres", name)?;
    Ok(Program::new(path).in_folder("/").as_user(owner.0, owner.1).env("LC_ALL", "C"))
}
