//! Measures Dayfly beside Vault on this machine, in one run: figures from two machines, or two hours, do not compare.
//!
//! `scripts/bench` builds everything for release, names the parts in the environment, and starts this.

mod decide;
mod exchange;
mod http;
mod load;
mod memory;
mod report;
mod revoke;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::report::Report;

/// Measures Dayfly beside Vault.
#[derive(Parser)]
#[command(name = "dayfly-bench", max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Subcommand)]
enum Bench {
    /// Credentials issued per second, beside Vault's token creation.
    Exchange {
        #[command(flatten)]
        output: Output,
        #[command(flatten)]
        options: exchange::Options,
    },
    /// From a process's exit to the first refusal at Vault, beside Vault's own revoke-accessor.
    Revoke {
        #[command(flatten)]
        output: Output,
        #[command(flatten)]
        options: revoke::Options,
    },
    /// Resident memory of broker and agent after many tasks.
    Memory {
        #[command(flatten)]
        output: Output,
        #[command(flatten)]
        options: memory::Options,
    },
    /// One decision, by number of bindings, without and with a policy.
    Decide {
        #[command(flatten)]
        output: Output,
        #[command(flatten)]
        options: decide::Options,
    },
    /// The program that `revoke` runs in its tasks.
    #[command(hide = true)]
    Workload(revoke::workload::Options),
}

#[derive(clap::Args)]
struct Output {
    /// One line of JSON per case on standard output; the table goes to standard error
    #[arg(long)]
    json: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    rustls::crypto::aws_lc_rs::default_provider().install_default().expect("nothing else installs one");
    match run(Arguments::parse().bench).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report::say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn run(bench: Bench) -> anyhow::Result<()> {
    let (json, report): (bool, Report) = match bench {
        Bench::Exchange { output, options } => (output.json, exchange::run(&options).await?),
        Bench::Revoke { output, options } => (output.json, revoke::run(&options).await?),
        Bench::Memory { output, options } => (output.json, memory::run(&options).await?),
        Bench::Decide { output, options } => (output.json, decide::run(&options)?),
        Bench::Workload(options) => return revoke::workload::run(&options).await,
    };
    report.print(json)
}
