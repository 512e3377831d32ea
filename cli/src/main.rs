//! `dayfly`: runs programs in tasks, and is the admins' way to see and take back.

mod apply;
mod approvals;
mod args;
mod audit;
mod brake;
mod ceiling;
mod check;
mod connect;
mod delegate;
#[cfg(feature = "dev")]
mod dev;
mod doctor;
mod documents;
mod environment;
mod exit;
mod explain;
mod failure;
mod keys;
mod kill;
mod leases;
mod lint;
mod nodes;
mod output;
mod policy;
mod question;
mod reach;
mod review;
mod revocations;
mod revoke;
mod run;
mod simulate;
mod sources;
mod tasks;
mod who_can;
mod whoami;
mod wire;

use std::path::Path;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use clap_complete::Shell;
use dayfly_domain::document::Kind;
use tokio::runtime::{Builder, Runtime};
use tracing_subscriber::EnvFilter;

use crate::args::{AdminCommand, Cli, Command};
use crate::connect::ConnectArgs;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::Format;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let format = cli.output;
    log(cli.verbose);
    let done = perform(cli).unwrap_or_else(|failure| {
        output::failure(&failure, format);
        failure.exit
    });
    done.into()
}

fn perform(cli: Cli) -> Result<Exit, Failure> {
    let Cli { command, output, verbose, connect } = cli;
    match command {
        Command::Run(args) => Err(run::run(&runtime()?, args, verbose > 0)),
        Command::Check(args) => runtime()?.block_on(check::check(args, output)).map(|()| Exit::Done),
        Command::Delegate(args) => runtime()?.block_on(delegate::delegate(args, output)).map(|()| Exit::Done),
        #[cfg(feature = "dev")]
        Command::Dev(args) => {
            rustls::crypto::aws_lc_rs::default_provider()
                .install_default()
                .expect("nothing before this line installs a provider");
            runtime()?.block_on(dev::run(args, verbose > 0))
        }
        Command::Doctor(command) => doctor::doctor(command, output),
        Command::Version => version(output),
        Command::Completions { shell } => completions(shell),
        Command::Man { dir } => manual(&dir),
        Command::ExitCodes => output::text(&exit::table()).map(|()| Exit::Done).map_err(Failure::from),
        Command::Admin(command) => {
            rustls::crypto::aws_lc_rs::default_provider()
                .install_default()
                .expect("nothing before this line installs a provider");
            runtime()?.block_on(ask(command, connect, output))
        }
    }
}

async fn ask(command: AdminCommand, connect: ConnectArgs, format: Format) -> Result<Exit, Failure> {
    match command {
        AdminCommand::Apply(args) => return apply::apply(args, connect, format).await,
        AdminCommand::Lint(args) => return lint::lint(args, connect, format).await,
        AdminCommand::Revoke(args) => return revoke::revoke(args, connect, format).await,
        AdminCommand::Kill(args) => return kill::kill(args, connect, format).await,
        AdminCommand::Revocations(args) => return revocations::revocations(args, connect, format).await,
        AdminCommand::Audit(command) => return audit::audit(command, connect, format).await,
        AdminCommand::Scope(command) => documents::documents(Kind::Scope, command, connect, format).await?,
        AdminCommand::Binding(command) => {
            documents::documents(Kind::Binding, command, connect, format).await?
        }
        AdminCommand::Policy(command) => return policy::policy(command, connect, format).await,
        AdminCommand::Stage(command) => documents::documents(Kind::Stage, command, connect, format).await?,
        AdminCommand::Node(command) => nodes::node(command, connect, format).await?,
        AdminCommand::Brake(command) => brake::brake(command, connect, format).await?,
        AdminCommand::Task(command) => tasks::task(command, connect, format).await?,
        AdminCommand::Lease(command) => leases::lease(command, connect, format).await?,
        AdminCommand::Request(args) => approvals::request(args, connect, format).await?,
        AdminCommand::Approve(args) => approvals::approve(args, connect, format).await?,
        AdminCommand::Refuse(args) => approvals::refuse(args, connect, format).await?,
        AdminCommand::Withdraw(args) => approvals::withdraw(args, connect, format).await?,
        AdminCommand::Approvals(args) => approvals::list(args, connect, format).await?,
        AdminCommand::Key(command) => keys::key(command, connect, format).await?,
        AdminCommand::Explain(args) => explain::explain(args, connect, format).await?,
        AdminCommand::Reach(args) => reach::reach(args, connect, format).await?,
        AdminCommand::WhoCan(args) => who_can::who_can(args, connect, format).await?,
        AdminCommand::Review(args) => review::review(args, connect, format).await?,
        AdminCommand::Simulate(args) => return simulate::simulate(args, connect, format).await,
        AdminCommand::Whoami => whoami::whoami(connect, format).await?,
    }
    Ok(Exit::Done)
}

fn version(format: Format) -> Result<Exit, Failure> {
    let version = env!("CARGO_PKG_VERSION");
    match format {
        Format::Json => output::json(&std::collections::BTreeMap::from([("version", version)]))?,
        Format::Table | Format::Yaml => output::text(&format!("dayfly {version}\n"))?,
    }
    Ok(Exit::Done)
}

fn completions(shell: Shell) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "dayfly", &mut script);
    output::raw(&script)?;
    Ok(Exit::Done)
}

fn manual(dir: &Path) -> Result<Exit, Failure> {
    let cannot = |error: std::io::Error| {
        Failure::new(format!("cannot write manual pages into {}", dir.display())).because(&error)
    };
    clap_mangen::generate_to(Cli::command(), dir).map_err(cannot)?;
    Ok(Exit::Done)
}

/// One thread: `run` opens a connection and hands the process over, every other verb makes a few calls.
fn runtime() -> Result<Runtime, Failure> {
    let built = Builder::new_current_thread().enable_all().build();
    built.map_err(|error| Failure::new("cannot start the runtime").because(&error))
}

/// Logs of the libraries go to stderr, and only if asked for.
fn log(verbose: u8) {
    let level = match verbose {
        0 => return,
        1 => "dayfly=info,dayfly_client=info",
        _ => "dayfly=debug,dayfly_client=debug,spiffe=debug",
    };
    let subscriber =
        tracing_subscriber::fmt().with_env_filter(EnvFilter::new(level)).with_writer(std::io::stderr);
    // Nobody else sets one.
    let _ = subscriber.try_init();
}
