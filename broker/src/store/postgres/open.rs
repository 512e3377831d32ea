//! How the store is opened, and why it is not.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use dayfly_domain::secret::Secret;
use sqlx::migrate::MigrateError;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgSslMode};
use sqlx::{ConnectOptions, Row};
use thiserror::Error;

use crate::store::{StoreError, migrations};

/// How long a starting broker waits until an earlier process under its name is gone.
pub(super) const NAME_PATIENCE: Duration = Duration::from_secs(10);

/// How the database is reached.
#[derive(Debug)]
pub struct Options {
    /// `postgres://role@host/database`, without a password.
    pub url: String,
    /// The role's password, if it has one.
    pub password: Option<Secret>,
    /// How the connection is protected.
    pub tls: Tls,
    /// Certificates that the server's must lead to; the system's if absent.
    pub ca_file: Option<PathBuf>,
    /// How many reads may run at once.
    pub readers: u32,
}

/// How a connection to the database is protected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tls {
    /// The server's certificate leads to a trusted one and names the host.
    #[default]
    VerifyFull,
    /// The server's certificate leads to a trusted one of `ca_file`, whatever it names.
    VerifyCa,
    /// None: a Unix socket, or this machine.
    Off,
}

/// Why the store was not opened. The broker does not start.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The address cannot be read, or holds what it must not.
    #[error("the database's address: {0}")]
    Address(String),
    /// The database could not be reached or read.
    #[error("could not open the database")]
    Database(#[from] sqlx::Error),
    /// Another process has the name.
    #[error("another broker writes as {writer:?}; give each its own state.writer")]
    InUse {
        /// The name.
        writer: String,
    },
    /// The schema is older than this release.
    #[error(
        "the database is at schema {found} and this release needs {known}; run `dayfly-broker migrate` as the owner"
    )]
    OlderSchema {
        /// The schema found; 0 if there is none.
        found: i64,
        /// The newest this release knows.
        known: i64,
    },
    /// A later release gave up what this one needs.
    #[error(
        "the database asks for a release that knows schema {oldest}, and this one knows schemas up to {known}; run a later release"
    )]
    NewerSchema {
        /// The oldest schema that a release must know.
        oldest: i64,
        /// The newest this release knows.
        known: i64,
    },
    /// The broker's role may do what would let it rewrite the past.
    #[error("the database role {role:?} {}; use the roles of deploy/postgres", .faults.join(", "))]
    TooMighty {
        /// The role.
        role: String,
        /// What it may.
        faults: Vec<&'static str>,
    },
    /// The schema could not be brought up to date.
    #[error("could not bring the schema of the database up to date")]
    Migrate(#[source] MigrateError),
    /// What stands in it could not be read.
    #[error("could not read the state in the database")]
    State(#[source] StoreError),
}

impl Options {
    /// How each connection is made. Nothing of the environment counts.
    pub(super) fn connect_options(&self) -> Result<PgConnectOptions, OpenError> {
        let options = PgConnectOptions::from_str(&self.url)
            .map_err(|error| OpenError::Address(error.to_string()))?
            .application_name("dayfly-broker")
            .disable_statement_logging();
        let options = match self.tls {
            Tls::VerifyFull => options.ssl_mode(PgSslMode::VerifyFull),
            Tls::VerifyCa => options.ssl_mode(PgSslMode::VerifyCa),
            Tls::Off => options.ssl_mode(PgSslMode::Disable),
        };
        let options = match &self.ca_file {
            Some(file) => options.ssl_root_cert(file),
            None => options,
        };
        let options = match &self.password {
            Some(password) => options.password(password.expose()),
            None => options,
        };
        Ok(options.options(SESSION))
    }
}

/// What every session is set to. A broker that stops in the middle of a transaction, or is cut off, must not hold its locks:
/// the server ends the session.
const SESSION: [(&str, &str); 11] = [
    ("search_path", "public"),
    ("synchronous_commit", "on"),
    ("default_transaction_isolation", "read committed"),
    ("statement_timeout", "30s"),
    ("lock_timeout", "10s"),
    ("idle_in_transaction_session_timeout", "5s"),
    ("tcp_keepalives_idle", "5"),
    ("tcp_keepalives_interval", "2"),
    ("tcp_keepalives_count", "3"),
    ("client_min_messages", "warning"),
    ("jit", "off"),
];

/// Whether this release works on the schema that stands. Only the owner changes it.
pub(super) async fn check_schema(connection: &mut PgConnection) -> Result<(), OpenError> {
    const THERE: &str =
        "SELECT to_regclass('_sqlx_migrations') IS NOT NULL AND to_regclass('schema_floor') IS NOT NULL";
    const FOUND: &str = "
        SELECT COALESCE(MAX(version), 0), (SELECT oldest FROM schema_floor)
        FROM _sqlx_migrations WHERE success";
    let known = migrations::newest();
    let is_there: bool = sqlx::query(THERE).fetch_one(&mut *connection).await?.try_get(0)?;
    if !is_there {
        return Err(OpenError::OlderSchema { found: 0, known });
    }
    let row = sqlx::query(FOUND).fetch_one(connection).await?;
    let (found, oldest): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
    if found < known {
        Err(OpenError::OlderSchema { found, known })
    } else if oldest > known {
        Err(OpenError::NewerSchema { oldest, known })
    } else {
        Ok(())
    }
}

/// Refuses a role that could change what was recorded, or give itself the right to.
pub(super) async fn check_role(connection: &mut PgConnection) -> Result<(), OpenError> {
    const CHECK: &str = "
        SELECT current_user::TEXT,
               rolsuper OR pg_has_role('pg_write_all_data', 'USAGE'),
               rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls,
               pg_has_role(audit.relowner, 'USAGE') OR pg_has_role(audit.relowner, 'MEMBER'),
               has_table_privilege(audit.oid, 'UPDATE') OR has_any_column_privilege(audit.oid, 'UPDATE'),
               has_table_privilege(audit.oid, 'DELETE') OR has_table_privilege(audit.oid, 'TRUNCATE'),
               has_table_privilege(audit.oid, 'TRIGGER') OR has_schema_privilege('public', 'CREATE')
        FROM pg_roles, pg_class AS audit
        WHERE rolname = current_user AND audit.oid = 'public.audit'::regclass";
    const FAULTS: [&str; 6] = [
        "is a superuser or may write all data",
        "may create roles or databases, replicate or bypass row security",
        "owns the tables",
        "may change audit records",
        "may delete audit records",
        "may put triggers on audit records or make tables",
    ];
    let row = sqlx::query(CHECK).fetch_one(connection).await?;
    let mut faults = Vec::new();
    for (column, fault) in FAULTS.into_iter().enumerate() {
        if row.try_get::<bool, _>(column + 1)? {
            faults.push(fault);
        }
    }
    if faults.is_empty() { Ok(()) } else { Err(OpenError::TooMighty { role: row.try_get(0)?, faults }) }
}
