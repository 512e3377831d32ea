//! Two brokers on one PostgreSQL database, each behind a proxy of its own before it, and one address for the agent that
//! leads to either.

use std::net::SocketAddr;

use anyhow::Context;
use sqlx::Connection;
use sqlx::postgres::PgConnection;

use crate::ports::free_port;
use crate::postgres::Postgres;
use crate::process::Running;
use crate::proxy::TcpProxy;
use crate::world::{World, WorldOptions};

const DATABASE: &str = "dayfly";

/// One of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// `broker-1`.
    First,
    /// `broker-2`.
    Second,
}

impl Which {
    /// The one that it is not.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Which::First => Which::Second,
            Which::Second => Which::First,
        }
    }

    /// Its name in the audit chains.
    #[must_use]
    pub fn writer(self) -> &'static str {
        match self {
            Which::First => "broker-1",
            Which::Second => "broker-2",
        }
    }
}

/// Both, with all that belongs to them.
pub struct Pair {
    /// The agent, SPIRE, Vault, and the first broker.
    pub world: World,
    /// The database's server.
    pub postgres: Postgres,
    second: Running,
    addresses: [SocketAddr; 2],
    before_database: [TcpProxy; 2],
    front: TcpProxy,
}

impl Pair {
    /// Starts all of it; the agent is attached at the first.
    ///
    /// # Errors
    /// Whatever does not start.
    pub async fn start(mut options: WorldOptions) -> anyhow::Result<Self> {
        let postgres = Postgres::start().await?;
        postgres.create_migrated_database(DATABASE).await?;
        let server = postgres.address();
        let before_database = [TcpProxy::before(server).await?, TcpProxy::before(server).await?];
        let addresses = [local(free_port()), local(free_port())];
        let front = TcpProxy::before(addresses[0]).await?;
        options.grpc = Some(addresses[0].port());
        options.agents_broker = Some(front.address().to_string());
        options.state_lines = Some(state(Which::First, before_database[0].address()));
        let world = World::start(options).await?;
        write_second(&world, &addresses, &before_database)?;
        let second = start_second(&world, &[])?;
        let mut pair = Self { world, postgres, second, addresses, before_database, front };
        pair.answers(Which::Second).await?;
        pair.speak_to(Which::First);
        Ok(pair)
    }

    /// The process.
    pub fn broker(&mut self, which: Which) -> &mut Running {
        match which {
            Which::First => &mut self.world.broker,
            Which::Second => &mut self.second,
        }
    }

    /// The proxy between it and the database.
    #[must_use]
    pub fn database_of(&self, which: Which) -> &TcpProxy {
        &self.before_database[which as usize]
    }

    /// The admin speaks to this one from now on.
    pub fn speak_to(&mut self, which: Which) {
        self.world.speak_to(self.addresses[which as usize].to_string());
    }

    /// Leads the agent to this one. An agent that was there already comes again.
    pub fn lead_to(&self, which: Which) {
        self.front.lead_to(self.addresses[which as usize]);
    }

    /// Leads the agent to this one and waits until it is attached there.
    ///
    /// # Errors
    /// When it does not attach in time.
    pub async fn attach_to(&mut self, which: Which) -> anyhow::Result<()> {
        self.speak_to(which);
        let before = self.world.epoch().await?;
        self.lead_to(which);
        self.world.wait_for_agent(before).await
    }

    /// Waits until it answers the admin, who speaks to it from now on.
    ///
    /// # Errors
    /// When it does not in time.
    pub async fn answers(&mut self, which: Which) -> anyhow::Result<()> {
        self.speak_to(which);
        match which {
            Which::First => self.world.broker_answers().await,
            Which::Second => {
                let admin = self.world.admin().await?;
                let ask = || {
                    let admin = admin.clone();
                    async move { admin.admin().list_nodes(dayfly_proto::v1::ListNodesRequest {}).await }
                };
                self.second.ready(std::time::Duration::from_secs(30), ask).await.map(drop)
            }
        }
    }

    /// Kills it where it stands, if it lives, and starts it again.
    ///
    /// # Errors
    /// When it does not answer in time.
    pub async fn start_again(&mut self, which: Which, env: &[(String, String)]) -> anyhow::Result<()> {
        let _dead_already = self.broker(which).kill();
        match which {
            Which::First => self.world.start_broker_without_waiting(env)?,
            Which::Second => self.second = start_second(&self.world, env)?,
        }
        self.answers(which).await
    }

    /// One text of the database, as its superuser sees it.
    ///
    /// # Errors
    /// When the query fails or finds nothing.
    pub async fn look(&self, sql: &'static str) -> anyhow::Result<Option<String>> {
        let mut root = PgConnection::connect(&self.postgres.url(DATABASE)).await?;
        sqlx::query_scalar(sql).fetch_one(&mut root).await.context(sql)
    }

    /// The ends of all logs.
    #[must_use]
    pub fn logs(&self) -> String {
        format!("{}--- broker-2\n{}", self.world.logs(), self.second.log_tail())
    }
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn state(which: Which, database: SocketAddr) -> String {
    format!(
        "writer = \"{}\"\n[state.postgres]\nurl = \"postgres://dayfly_broker@{database}/{DATABASE}\"\ntls = \"off\"",
        which.writer()
    )
}

/// The second broker's configuration: the first's, with addresses of its own.
fn write_second(
    world: &World,
    addresses: &[SocketAddr; 2],
    before_database: &[TcpProxy; 2],
) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(world.scratch.join("broker/broker.toml"))?;
    let public = world.issuer.trim_start_matches("http://").trim_end_matches("/dayfly").to_owned();
    let changed = [
        (addresses[0].to_string(), addresses[1].to_string()),
        ("\"broker-1\"".to_owned(), "\"broker-2\"".to_owned()),
        (before_database[0].address().to_string(), before_database[1].address().to_string()),
        ("glass.sock".to_owned(), "glass-2.sock".to_owned()),
        (format!("listen = \"{public}\""), format!("listen = \"{}\"", local(free_port()))),
        (world.introspection.clone(), local(free_port()).to_string()),
    ];
    let mut second = text;
    for (from, to) in changed {
        anyhow::ensure!(second.contains(&from), "the first broker's configuration has no {from}");
        second = second.replace(&from, &to);
    }
    world.scratch.file("broker/second.toml", 0o644, second).map(drop)
}

fn start_second(world: &World, env: &[(String, String)]) -> anyhow::Result<Running> {
    let mut program = world.broker_program("broker/second.toml")?;
    for (name, value) in env {
        program = program.env(name, value);
    }
    program.start(&world.scratch.join("broker-2.log"))
}
