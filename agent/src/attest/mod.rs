//! The attest process: a pidfd comes in, the JWT-SVID of that process goes out.
//!
//! It is the only one that may open SPIRE's admin socket, which gives whoever may use it every identity of the node. So
//! it is small, parses nothing that a workload sends, and asks for one audience: `<broker>?via=<this agent>`.
//!
//! - [`wire`]: the one message and its answer
//! - [`spire`]: how SPIRE is asked
//! - [`server`]: who may ask here, and the two looks at the pidfd

pub mod server;
pub mod spire;
pub mod wire;

use crate::config::Config;

pub use server::AttestError;

/// Serves until SIGTERM or SIGINT.
pub async fn run(config: &Config) -> Result<(), AttestError> {
    let endpoint = config.attest.spire_admin_socket.clone().ok_or(AttestError::NoAdminSocket)?;
    let spire = spire::Spire::new(endpoint, config.audience(), config.spiffe_id.trust_domain().clone());
    let server = server::Server::bind(&config.attest, spire)?;
    tracing::info!(socket = %config.attest.socket.display(), audience = %config.audience(), "attest process serves");
    crate::daemon::ready();
    tokio::select! {
        () = server.serve() => {}
        _ = crate::daemon::stop() => {}
    }
    crate::daemon::stopping();
    Ok(())
}
