//! The Unix socket that workloads talk to: gRPC, with the caller known from the kernel.
//!
//! Anybody may connect. Who connected is learnt at `accept` (SO_PEERPIDFD), before a byte is read; whether that process
//! still lives is asked for each call, as a connection may outlive it.

pub mod ask;
pub mod environment;
pub mod io;
pub mod open;
pub mod refuse;
pub mod service;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use dayfly_proto::v1::credential_service_server::CredentialServiceServer;
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::config::Limits;
use crate::native::server::PerUser;
use crate::process::Process;
use io::CallerIo;
use service::Service;

/// The largest request, in bytes.
const MOST_REQUEST: usize = 64 * 1024;
/// The largest answer, in bytes; answers come from the broker, which is trusted with more.
const MOST_ANSWER: usize = 256 * 1024;
/// The most that the headers of a request may hold, in bytes.
const MOST_HEADERS: u32 = 16 * 1024;
/// How long a call may take. The broker has 45 s.
const CALL_PATIENCE: Duration = Duration::from_secs(60);
/// How long a new connection may take to send the headers of its first request.
const HEADER_PATIENCE: Duration = Duration::from_secs(5);
/// Calls on one connection at the same time.
const CALLS: u32 = 32;

/// Listens, for everybody whom `mode` lets in.
pub fn bind(path: &Path, mode: u32) -> std::io::Result<UnixListener> {
    crate::daemon::listen(path, mode)
}

/// Serves until `stop`, then finishes the calls in flight.
pub async fn serve(
    listener: UnixListener,
    service: Service,
    limits: Limits,
    stop: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    let (accepted, incoming) = mpsc::channel(16);
    let accepting = tokio::spawn(accept(listener, limits, accepted));
    let service = CredentialServiceServer::new(service)
        .max_decoding_message_size(MOST_REQUEST)
        .max_encoding_message_size(MOST_ANSWER);
    let served = tonic::transport::Server::builder()
        .max_concurrent_streams(CALLS)
        .http2_max_header_list_size(MOST_HEADERS)
        .timeout(CALL_PATIENCE)
        .add_service(service)
        .serve_with_incoming_shutdown(ReceiverStream::new(incoming), stop.cancelled_owned())
        .await;
    accepting.abort();
    served
}

async fn accept(listener: UnixListener, limits: Limits, accepted: mpsc::Sender<std::io::Result<CallerIo>>) {
    let per_user = Arc::new(PerUser::default());
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, most likely: it passes when connections close.
                warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let caller =
            Process::of_peer(&stream).and_then(|(process, by)| Ok((process.facts()?.key, process, by)));
        let (key, process, attested_by) = match caller {
            Ok(known) => known,
            Err(error) => {
                debug!(%error, "a connection of nobody");
                continue;
            }
        };
        let Some(place) = per_user.place(key.uid, limits) else {
            debug!(uid = key.uid, "too many connections of one user");
            continue;
        };
        if accepted
            .send(Ok(CallerIo::new(stream, process, attested_by, place, HEADER_PATIENCE)))
            .await
            .is_err()
        {
            return;
        }
    }
}
