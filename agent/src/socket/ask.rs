//! What a process wants to stand in: a new task, or one that was opened for it. The broker's answer is the same to the
//! agent.

use std::collections::HashMap;
use std::time::Duration;

use dayfly_client::{BrokerClient, CallError};
use dayfly_proto::v1;
use prost_types::Timestamp;
use tonic::Status;

/// Until the newest stream's epoch is known everywhere in the agent.
const FENCED_PAUSE: Duration = Duration::from_millis(200);

/// What is asked for. Fields that are the agent's to fill are empty until [`Ask::put`].
#[derive(Clone, Debug)]
pub enum Ask {
    /// A new task.
    Open(v1::OpenTaskRequest),
    /// A task that was opened for the caller.
    Claim(v1::ClaimTaskRequest),
}

/// What the agent adds of its own knowledge.
#[derive(Clone, Debug)]
pub struct Known {
    /// The caller's JWT-SVID.
    pub subject_token: String,
    /// The innermost task the caller stands in; none for a claim.
    pub parent: Option<String>,
    /// What was observed of the anchor.
    pub anchor: v1::Anchor,
}

/// The task, as the broker granted it.
#[derive(Debug)]
pub struct Granted {
    /// The broker's name for it.
    pub task_id: String,
    /// The root of its tree.
    pub session_id: String,
    /// When the broker ends it.
    pub deadline: Option<Timestamp>,
    /// Everything it may ask for.
    pub ceiling: Vec<v1::ScopeRequest>,
    /// Which provider each scope has.
    pub providers: Vec<v1::ScopeProvider>,
}

/// A task that its leader stands in.
#[derive(Debug)]
pub struct Entered {
    /// The task.
    pub granted: Granted,
    /// What its programs need in their environment.
    pub environment: HashMap<String, String>,
}

impl Ask {
    /// Whether the caller set a label that is the agent's to heed.
    pub fn is_set(&self, label: &str) -> bool {
        let labels = match self {
            Ask::Open(request) => &request.labels,
            Ask::Claim(request) => &request.labels,
        };
        labels.get(label).is_some_and(|value| value == "true")
    }

    /// Asks the broker. What comes just when the agent begins a new stream is fenced with the old one, and asked again.
    pub async fn put(&self, broker: &BrokerClient, known: Known) -> Result<Granted, Status> {
        match self.put_once(broker, known.clone()).await {
            Err(status) if CallError::from(status.clone()).reason.as_deref() == Some("NODE_FENCED") => {
                tokio::time::sleep(FENCED_PAUSE).await;
                self.put_once(broker, known).await
            }
            other => other,
        }
    }

    async fn put_once(&self, broker: &BrokerClient, known: Known) -> Result<Granted, Status> {
        let Known { subject_token, parent, anchor } = known;
        match self {
            Ask::Open(request) => {
                let asked = v1::OpenTaskRequest {
                    subject_token,
                    parent_task_id: parent.unwrap_or_default(),
                    anchor: Some(anchor),
                    ..request.clone()
                };
                let answer = broker.credentials().open_task(asked).await?.into_inner();
                Ok(Granted {
                    task_id: answer.task_id,
                    session_id: answer.session_id,
                    deadline: answer.deadline,
                    ceiling: request.ceiling.clone(),
                    providers: answer.providers,
                })
            }
            Ask::Claim(request) => {
                let asked = v1::ClaimTaskRequest { subject_token, anchor: Some(anchor), ..request.clone() };
                let answer = broker.credentials().claim_task(asked).await?.into_inner();
                Ok(Granted {
                    task_id: answer.task_id,
                    session_id: answer.session_id,
                    deadline: answer.deadline,
                    ceiling: answer.ceiling,
                    providers: answer.providers,
                })
            }
        }
    }
}

impl From<Entered> for v1::OpenTaskResponse {
    fn from(entered: Entered) -> Self {
        let Granted { task_id, session_id, deadline, ceiling: _, providers } = entered.granted;
        let environment = entered.environment;
        Self { task_id, session_id, deadline, task_key: String::new(), environment, providers }
    }
}

impl From<Entered> for v1::ClaimTaskResponse {
    fn from(entered: Entered) -> Self {
        let Granted { task_id, session_id, deadline, ceiling, providers } = entered.granted;
        let environment = entered.environment;
        Self { task_id, session_id, deadline, task_key: String::new(), environment, providers, ceiling }
    }
}
