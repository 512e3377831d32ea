//! Thin gRPC handlers. Only this folder knows protobuf.

pub mod admin;
pub mod answers;
pub mod approval;
pub mod credential;
mod delegation;
pub mod key;
pub mod node;
pub mod question;
mod review;
pub mod revocation;
mod silence;
mod simulation;
pub mod status;
pub mod wire;

use std::sync::Arc;

use dayfly_client::{NODE_EPOCH, Peer};
use dayfly_domain::id::RequestId;
use dayfly_domain::secret::Secret;
use tonic::{Request as Rpc, Status};

use crate::caller::{CallerError, Callers};
use crate::operations::{Broker, OperationError, Request, lapse};

/// What every handler needs.
#[derive(Clone)]
pub struct Api {
    /// The broker.
    pub broker: Arc<Broker>,
    /// What proves callers; none on the break-glass socket, where the kernel says who asks.
    pub callers: Option<Arc<Callers>>,
}

impl Api {
    fn new_request_id(&self) -> RequestId {
        RequestId::new(self.broker.clock.now(), rand::random())
    }

    /// Proves who asks to be given something. Through a node that means: the node is attached, speaks, and shows its epoch.
    async fn admit(
        &self,
        peer: &Peer,
        epoch: Option<u64>,
        subject_token: String,
        id: RequestId,
    ) -> Result<Request, Status> {
        let request = self.prove(peer, subject_token, id).await?;
        let admitted = lapse::must_speak(&self.broker, &request, epoch).await;
        admitted.map(|()| request).map_err(|error| status::of(error, id))
    }

    /// Proves who asks and names the request. Enough to take away.
    async fn prove(&self, peer: &Peer, subject_token: String, id: RequestId) -> Result<Request, Status> {
        let now = self.broker.clock.now();
        let rules = self.broker.rules.load_full();
        let callers = self.callers.as_ref();
        let callers =
            callers.ok_or_else(|| status::of(OperationError::Bug("nothing here proves callers"), id))?;
        let proven = callers.prove(&rules, peer, &Secret::new(subject_token), now).await;
        match proven {
            Ok(caller) => Ok(Request { id, caller, at: now }),
            Err(error) => Err(status::of(OperationError::Caller(error), id)),
        }
    }
}

/// The epoch that a node agent shows with each call; none from a direct caller.
fn node_epoch<T>(rpc: &Rpc<T>) -> Option<u64> {
    rpc.metadata().get(NODE_EPOCH)?.to_str().ok()?.parse().ok()
}

/// The mTLS peer of a call. Only connections that carry one reach a handler.
fn peer_of<T>(rpc: &Rpc<T>, id: RequestId) -> Result<Arc<Peer>, Status> {
    rpc.extensions()
        .get::<Arc<Peer>>()
        .cloned()
        .ok_or_else(|| status::of(OperationError::Bug("a connection without a peer"), id))
}

/// A caller error as a status, where the peer itself is what is wrong.
fn caller_status(error: CallerError, id: RequestId) -> Status {
    status::of(OperationError::Caller(error), id)
}
