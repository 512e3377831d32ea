//! A guard of model files: whoever loads one shows a receipt that the broker signed for this very workload, this guard
//! and these very bytes.
//!
//! ```sh
//! cargo run -p dayfly-client --example guard -- --listen 127.0.0.1:8460 --artifacts ./models \\
//!     --issuer https://issuer.example/receipt --jwks receipt-jwks.json --accept prod.example
//! ```
//!
//! `README.md` tells the rest.

mod guard;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use dayfly_client::{
    Identity, IdentityOptions, Incoming, IncomingLimits, ServerTls, Speaks, TrustDomain, chain,
};
use guard::Guard;
use tokio::net::TcpListener;
use tracing::{error, info, warn};

/// How often the issuer's keys are read again.
const KEYS_EVERY: Duration = Duration::from_secs(10);

#[derive(Parser)]
struct Arguments {
    /// Where to listen, over mutual TLS with the guard's own SVID.
    #[arg(long, default_value = "127.0.0.1:8460")]
    listen: String,
    /// The folder of the artifacts: `models/llama-3-8b` lies below it under this name.
    #[arg(long)]
    artifacts: PathBuf,
    /// Where artifacts are copied while their digest is taken; on a disk with room for the largest four.
    #[arg(long, default_value_os_t = std::env::temp_dir())]
    spool: PathBuf,
    /// The broker's receipt issuer: `<issuer.url>/receipt`.
    #[arg(long)]
    issuer: String,
    /// The issuer's JWK Set, kept up to date by you; it is read again every ten seconds.
    #[arg(long)]
    jwks: PathBuf,
    /// A trust domain whose workloads may come. May be given more than once.
    #[arg(long = "accept", required = true)]
    accepted: Vec<TrustDomain>,
}

#[tokio::main]
async fn main() -> std::process::ExitCode {
    rustls::crypto::aws_lc_rs::default_provider().install_default().expect("nothing else installs one");
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
    match run(Arguments::parse()).await {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            error!(error = chain(&*error));
            std::process::ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<(), Box<dyn std::error::Error>> {
    let identity = Identity::from_workload_api(None, IdentityOptions::default()).await?;
    let own = identity.spiffe_id().clone();
    let jwks = std::fs::read_to_string(&arguments.jwks)?;
    let Arguments { artifacts, spool, issuer, .. } = &arguments;
    let guard = Arc::new(Guard::new(own.clone(), issuer, &jwks, artifacts, spool)?);

    let listener = TcpListener::bind(&arguments.listen).await?;
    info!(spiffe_id = %own, address = %listener.local_addr()?, "listening");
    let tls = ServerTls::new(&identity, &arguments.accepted, Speaks::Http1Or2)?;
    let connections = Incoming::new(listener, tls, IncomingLimits::default());
    tokio::spawn(keep_keys(Arc::clone(&guard), arguments.jwks.clone(), jwks));
    tokio::select! {
        () = guard.serve(connections) => Ok(()),
        told = tokio::signal::ctrl_c() => Ok(told?),
    }
}

/// Takes new keys when the file changes. A bad file changes nothing.
async fn keep_keys(guard: Arc<Guard>, path: PathBuf, mut known: String) {
    loop {
        tokio::time::sleep(KEYS_EVERY).await;
        match tokio::fs::read_to_string(&path).await {
            Ok(read) if read == known => {}
            Ok(read) => match guard.update_jwks(&read) {
                Ok(()) => {
                    info!("new keys");
                    known = read;
                }
                Err(fault) => warn!(error = chain(&fault), "the old keys stay"),
            },
            Err(error) => warn!(%error, "the old keys stay"),
        }
    }
}
