//! Endpoints that unmodified SDKs already speak to, and the one door that all requests at them pass.
//!
//! A request is served only if all hold: exact `Host`, no trace of a browser or a proxy, the task's own bearer, and the
//! kernel's word that the connection was made in that task and is held by its processes alone. Whoever reaches a loopback
//! port can send the first three; nobody can send the last.

pub mod aws;
pub mod guard;
pub mod path;
pub mod server;
pub mod token_file;
pub mod upstream;
pub mod vault;

use std::net::SocketAddr;
use std::sync::Arc;

use http::HeaderValue;

use crate::attester::{AttestError, Attester};
use crate::credentials::Provider;
use crate::deliver::DeliverError;
use crate::member;
use crate::process::Process;
use crate::task::Task;
use crate::tasks::Tasks;

/// More holders of one connection than this are not asked who they are.
const MOST_HOLDERS: usize = 8;

/// Whether, and for how long, a refusal asks to wait: 429 with `Retry-After` (RFC 6585 §4, RFC 9110 §10.2.3).
pub(crate) fn retry_after(error: &DeliverError) -> Option<HeaderValue> {
    error.too_much().map(|wait| dayfly_client::whole_seconds(wait).max(1).into())
}

/// One end each of a loopback connection.
#[derive(Clone, Copy, Debug)]
pub struct Ends {
    /// The program's.
    pub client: SocketAddr,
    /// Ours.
    pub server: SocketAddr,
}

/// Why a request is not served.
#[derive(Debug, thiserror::Error)]
pub enum DoorError {
    /// It does not look like what the SDK sends.
    #[error("{0}")]
    Header(&'static str),
    /// No open task has this bearer.
    #[error("no open task has this token")]
    UnknownBearer,
    /// The kernel says no.
    #[error(transparent)]
    NotAMember(#[from] member::Refusal),
    /// Several processes hold the connection and are not one principal.
    #[error("the connection is shared by processes with different identities")]
    SharedConnection,
    /// Nobody can be shown to the broker.
    #[error(transparent)]
    Attest(#[from] AttestError),
}

impl DoorError {
    /// The word for metrics.
    pub fn metric(&self) -> &'static str {
        match self {
            Self::Header(_) => "header",
            Self::UnknownBearer => "bearer",
            Self::NotAMember(_) => "not_a_member",
            Self::SharedConnection => "shared",
            Self::Attest(_) => "attest",
        }
    }
}

/// Lets members of a task in.
#[derive(Debug)]
pub struct Door {
    tasks: Arc<Tasks>,
    attester: Arc<Attester>,
}

/// A process at the other end, and its task.
#[derive(Debug)]
pub struct Visitor {
    /// The task whose bearer it showed and in which it stands.
    pub task: Arc<Task>,
    /// Who asks. What it is given is good for every process that holds the connection.
    pub process: Process,
}

impl Door {
    /// Puts the parts together.
    pub fn new(tasks: Arc<Tasks>, attester: Arc<Attester>) -> Self {
        Self { tasks, attester }
    }

    /// Who asks with this bearer on this connection.
    pub async fn admit(&self, provider: Provider, bearer: &[u8], ends: Ends) -> Result<Visitor, DoorError> {
        let task = self.tasks.by_bearer(provider, bearer).ok_or(DoorError::UnknownBearer)?;
        let (roster, id) = (self.tasks.roster(), task.id.clone());
        // It reads the open files of every process of the task.
        let speaker =
            tokio::task::spawn_blocking(move || roster.speaker(&id, ends.client, ends.server)).await;
        let holders = speaker.expect("the look-up does not panic")?.holders;
        let process = self.one_principal(&holders).await?;
        Ok(Visitor { task, process })
    }

    async fn one_principal(&self, holders: &[Process]) -> Result<Process, DoorError> {
        let [first, others @ ..] = holders else {
            return Err(member::Refusal::NoHolder { unreadable: 0 }.into());
        };
        if holders.len() > MOST_HOLDERS {
            return Err(DoorError::SharedConnection);
        }
        if !others.is_empty() {
            let first = self.attester.subject(first).await?;
            for other in others {
                let other = self.attester.subject(other).await?;
                if other.spiffe_id != first.spiffe_id || other.key.uid != first.key.uid {
                    return Err(DoorError::SharedConnection);
                }
            }
        }
        Ok(first.clone())
    }
}
