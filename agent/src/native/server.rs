//! Accepts connections on a loopback port and speaks HTTP/1.1 on them, within limits.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dayfly_sys::sock_diag_tcp;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tracing::{debug, warn};

use super::Ends;
use crate::config::Limits;

/// How long a client may take to send its headers.
const HEADER_PATIENCE: Duration = Duration::from_secs(5);
/// The most that is read before the headers are complete, in bytes.
const MOST_HEADERS: usize = 64 * 1024;

/// Answers one request.
pub trait Answers: Send + Sync + 'static {
    /// Whatever is wrong with the request, there is an answer.
    fn answer(
        &self,
        request: Request<Incoming>,
        ends: Ends,
    ) -> impl Future<Output = Response<Full<Bytes>>> + Send;
}

/// Serves until dropped.
pub async fn serve<A: Answers>(listener: TcpListener, answers: Arc<A>, limits: Limits) {
    let per_user = Arc::new(PerUser::default());
    loop {
        let (stream, client) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(server) = stream.local_addr() else { continue };
        // Whose it is decides only how many of them there may be; each request is asked about anew.
        let Ok(facts) = sock_diag_tcp(client, server) else { continue };
        let Some(place) = per_user.place(facts.uid, limits) else {
            debug!(uid = facts.uid, "too many connections of one user");
            continue;
        };
        let answers = Arc::clone(&answers);
        tokio::spawn(async move {
            let _place = place;
            speak(stream, answers, Ends { client, server }).await;
        });
    }
}

async fn speak<A: Answers>(stream: TcpStream, answers: Arc<A>, ends: Ends) {
    // It fails only on a socket that is gone already.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| {
        let answers = Arc::clone(&answers);
        async move { Ok::<_, Infallible>(answers.answer(request, ends).await) }
    });
    let spoken = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_PATIENCE)
        .max_buf_size(MOST_HEADERS)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = spoken {
        debug!(client = %ends.client, %error, "a connection ended early");
    }
}

/// The host name that clients must use for this listener.
pub fn host_of(address: SocketAddr) -> String {
    address.to_string()
}

/// Counts connections, all and each user's.
#[derive(Debug, Default)]
pub struct PerUser(Mutex<HashMap<u32, usize>>);

/// A connection that is counted until it is dropped.
#[derive(Debug)]
pub struct Place {
    uid: u32,
    of: Arc<PerUser>,
}

impl PerUser {
    /// `None` when the user, or all together, have too many.
    pub fn place(self: &Arc<Self>, uid: u32, limits: Limits) -> Option<Place> {
        let mut counts = self.0.lock().expect("no holder of this lock panics");
        let all: usize = counts.values().sum();
        let own = counts.entry(uid).or_default();
        if *own >= limits.connections_per_uid || all >= limits.connections {
            if *own == 0 {
                counts.remove(&uid);
            }
            return None;
        }
        *own += 1;
        Some(Place { uid, of: Arc::clone(self) })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.of.0.lock().expect("no holder of this lock panics");
        if let Some(count) = counts.get_mut(&self.uid) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.uid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

    use super::*;

    #[test]
    fn one_user_cannot_take_all_places_and_all_cannot_take_more_than_there_are() {
        let limits = Limits { connections: 3, connections_per_uid: 2, attestations_per_uid: 1 };
        let places = Arc::new(PerUser::default());
        let first = places.place(1, limits).unwrap();
        let _second = places.place(1, limits).unwrap();
        assert!(places.place(1, limits).is_none());
        let _other = places.place(2, limits).unwrap();
        assert!(places.place(3, limits).is_none(), "there are no more");
        drop(first);
        assert!(places.place(3, limits).is_some());
        assert_eq!(places.0.lock().unwrap().len(), 2, "who has none is not remembered");
    }
}
