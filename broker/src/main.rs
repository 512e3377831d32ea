//! `dayfly-broker`: arguments → configuration → broker, until told to stop.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};
use dayfly_broker::app::App;
use dayfly_broker::config::{Config, PostgresConfig};
use dayfly_broker::public::{Discovery, Endpoints};
use dayfly_broker::signer::FileSigner;
use dayfly_broker::store::postgres::{self, Tls};
use tokio::signal::unix::{SignalKind, signal};

/// The credential broker of Dayfly: exchanges attested SVIDs for short-lived, task-scoped credentials, and takes them
/// back.
#[derive(Parser)]
#[command(name = "dayfly-broker", version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve until told to stop by SIGTERM or SIGINT.
    Run {
        /// The configuration, TOML. `DAYFLY_SECTION__KEY` variables lie over it.
        #[arg(long, default_value = "/etc/dayfly/broker.toml")]
        config: PathBuf,
    },
    /// Check a configuration and say every fault.
    CheckConfig {
        /// The configuration.
        #[arg(long, default_value = "/etc/dayfly/broker.toml")]
        config: PathBuf,
    },
    /// Bring the schema of a PostgreSQL database up to date, and grant the broker's role its rights. As the owner of the
    /// tables, before a new release is started; brokers of the release before go on meanwhile.
    Migrate {
        /// The database and the owner's role, without a password: `postgres://dayfly_owner@host/dayfly`.
        #[arg(long)]
        url: String,
        /// A file with the owner's password, readable only by whoever runs this.
        #[arg(long)]
        password_file: Option<PathBuf>,
        /// How the connection is protected: `verify-full`, `verify-ca`, or `off` on this machine.
        #[arg(long, default_value = "verify-full", value_parser = tls)]
        tls: Tls,
        /// Certificates that the server's must lead to.
        #[arg(long)]
        ca_file: Option<PathBuf>,
    },
    /// The issuers' public documents.
    Issuer {
        #[command(subcommand)]
        command: IssuerCommand,
    },
    /// List the points at which tests may crash this process.
    #[cfg(feature = "fault-points")]
    ListFaultPoints,
}

#[derive(Subcommand)]
enum IssuerCommand {
    /// Write discovery documents and JWKS as files, for a bucket or a CDN.
    Export {
        /// The configuration.
        #[arg(long, default_value = "/etc/dayfly/broker.toml")]
        config: PathBuf,
        /// The folder to write to.
        dir: PathBuf,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    harden();
    rustls::crypto::aws_lc_rs::default_provider().install_default().expect("nothing was installed before");
    match run(Arguments::parse().command).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tell(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Run { config } => {
            log_to_stderr();
            let app = App::start(Config::load(&config)?).await?;
            let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
            app.run(told_to_stop()).await;
            Ok(())
        }
        Command::CheckConfig { config } => {
            Config::load(&config)?;
            tell(&format!("{}: valid", config.display()));
            Ok(())
        }
        Command::Migrate { url, password_file, tls, ca_file } => {
            let database = PostgresConfig { url, password_file, tls, ca_file };
            database.check()?;
            postgres::migrate(&database.options()?).await?;
            tell("the schema is up to date");
            Ok(())
        }
        Command::Issuer { command: IssuerCommand::Export { config, dir } } => {
            let config = Config::load(&config)?;
            let keys_dir = config.keys.dir.as_deref().context(
                "the keys are in vault: copy the documents from issuer.listen of a broker that runs",
            )?;
            let signer = FileSigner::open(keys_dir)?;
            let endpoints = Endpoints::of(config.introspection.as_ref(), config.token_exchange.as_ref());
            let discovery = Discovery::new(config.issuer.url, std::sync::Arc::new(signer), endpoints);
            discovery.export_static(&dir)?;
            tell(&format!("written to {}", dir.display()));
            Ok(())
        }
        #[cfg(feature = "fault-points")]
        Command::ListFaultPoints => {
            dayfly_broker::fault::POINTS.iter().for_each(|point| tell(point));
            Ok(())
        }
    }
}

fn tls(text: &str) -> Result<Tls, String> {
    match text {
        "verify-full" => Ok(Tls::VerifyFull),
        "verify-ca" => Ok(Tls::VerifyCa),
        "off" => Ok(Tls::Off),
        _ => Err("verify-full, verify-ca or off".to_owned()),
    }
}

async fn told_to_stop() {
    let mut terminate = signal(SignalKind::terminate()).expect("a handler can be set");
    let mut interrupt = signal(SignalKind::interrupt()).expect("a handler can be set");
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
}

/// No core dumps, no tracing by others of the same uid, no file for anybody else.
fn harden() {
    dayfly_sys::harden_process().expect("a process may always lower its own limits");
}

fn log_to_stderr() {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_env("DAYFLY_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // Under systemd the journal has its own time stamps; machines read JSON.
    match std::env::var("DAYFLY_LOG_FORMAT").as_deref() {
        Ok("json") => builder.json().init(),
        _ => builder.with_ansi(false).init(),
    }
}

/// A line for the person or script that called.
fn tell(line: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stdout(), "{line}");
}
