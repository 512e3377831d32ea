//! `dayfly-agent`: the node agent, two processes from one binary.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use dayfly_agent::config::Config;
use dayfly_agent::{attest, logging, run};

/// The node agent of Dayfly: knows which process stands in which task, and serves each what its task may have.
#[derive(Parser)]
#[command(version)]
struct Cli {
    /// Prints the names of all fault points, one a line, and exits.
    #[cfg(feature = "fault-points")]
    #[arg(long, exclusive = true)]
    list_fault_points: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Serves the workloads of this node.
    Run(File),
    /// Asks SPIRE who a process is, for the other process. The only one that may open SPIRE's admin socket.
    Attest(File),
    /// Reads the configuration, says what is wrong with it, and exits.
    CheckConfig(File),
}

#[derive(clap::Args)]
struct File {
    /// The configuration, a TOML file. DAYFLY_SECTION__KEY in the environment replaces what it says.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

fn main() -> ExitCode {
    // Before anything could be in memory that must not leave it.
    if let Err(error) = dayfly_sys::harden_process() {
        say(&format!("dayfly-agent: could not protect this process's memory: {error}"));
        return ExitCode::FAILURE;
    }
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .expect("nothing has installed one before");
    let cli = Cli::parse();
    #[cfg(feature = "fault-points")]
    if cli.list_fault_points {
        for point in dayfly_agent::fault::POINTS {
            println(point);
        }
        return ExitCode::SUCCESS;
    }
    let Some(command) = cli.command else {
        say("dayfly-agent: say what to do: run, attest or check-config; see --help");
        return ExitCode::from(2);
    };
    match act(&command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("dayfly-agent: {}", dayfly_client::chain(&*error)));
            ExitCode::FAILURE
        }
    }
}

fn act(command: &Command) -> Result<(), Box<dyn std::error::Error>> {
    let (Command::Run(File { config })
    | Command::Attest(File { config })
    | Command::CheckConfig(File { config })) = command;
    let config = Config::load(config)?;
    if matches!(command, Command::CheckConfig(_)) {
        println("the configuration can be used");
        return Ok(());
    }
    logging::start(&config.log);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    match command {
        Command::Run(_) => runtime.block_on(run::run(config))?,
        Command::Attest(_) => runtime.block_on(attest::run(&config))?,
        Command::CheckConfig(_) => {}
    }
    Ok(())
}

#[expect(clippy::print_stderr, reason = "the edge of the program, before or after there is a log")]
fn say(line: &str) {
    eprintln!("{line}");
}

#[expect(clippy::print_stdout, reason = "what the caller asked for")]
fn println(line: &str) {
    std::println!("{line}");
}
