//! The fake cloud as a process of its own, for scenarios and benches.

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use dayfly_fakecloud::{FakeCloud, ProviderSeed, Seed};

/// STS, IAM and a little S3 for tests. Prints its address; complaints go to standard error.
#[derive(Debug, Parser)]
#[command(name = "dayfly-fakecloud")]
struct Options {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Providers, roles and buckets, as JSON.
    #[arg(long)]
    seed: Option<PathBuf>,
    /// An issuer to trust. Its keys are fetched from it, unless --jwks gives them.
    #[arg(long)]
    issuer: Option<String>,
    /// The key set of the issuer, as JSON.
    #[arg(long, requires = "issuer")]
    jwks: Option<PathBuf>,
    /// The audience that the issuer's tokens must have.
    #[arg(long, default_value = "sts.amazonaws.com")]
    client_id: String,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(never) => match never {},
        Err(error) => {
            let _ = writeln!(io::stderr(), "dayfly-fakecloud: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> io::Result<std::convert::Infallible> {
    let mut seed = match &options.seed {
        Some(path) => serde_json::from_slice::<Seed>(&std::fs::read(path)?)?,
        None => Seed::default(),
    };
    if let Some(issuer) = &options.issuer {
        let jwks = options.jwks.as_ref().map(std::fs::read).transpose()?;
        seed.providers.push(ProviderSeed {
            url: issuer.clone(),
            client_ids: vec![options.client_id.clone()],
            jwks: jwks.map(|text| serde_json::from_slice(&text)).transpose()?,
        });
    }
    let cloud = FakeCloud::listen(options.listen, &seed)?;
    let mut out = io::stdout();
    writeln!(out, "{}", cloud.url())?;
    out.flush()?;
    let mut told = 0;
    loop {
        let complaints = cloud.complaints();
        for complaint in complaints.iter().skip(told) {
            writeln!(io::stderr(), "{complaint}")?;
        }
        told = complaints.len();
        std::thread::sleep(Duration::from_millis(200));
    }
}
