//! One task, as the agent holds it from its opening to the last trace.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use dayfly_proto::v1::ScopeRequest;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio_util::sync::CancellationToken;

use crate::anchor::{Anchor, EndCause};
use crate::credentials::{Credentials, Provider};
use crate::folder::TaskFolder;

/// An open or ending task.
#[derive(Debug)]
pub struct Task {
    /// The broker's name for it.
    pub id: String,
    /// The root of its tree.
    pub session_id: String,
    /// The task it was opened in, if that is one of this agent's.
    pub parent: Option<String>,
    /// When the broker ends it.
    pub deadline: Option<SystemTime>,
    /// What its life hangs on.
    pub anchor: Arc<Anchor>,
    /// Whether what is left is left alone.
    pub leave_orphans: bool,
    /// What is delivered, and how.
    pub deliveries: BTreeMap<&'static str, Delivery>,
    /// What it holds.
    pub credentials: Credentials,
    /// Its files.
    pub folder: Option<TaskFolder>,
    ended: CancellationToken,
    over: OnceLock<Over>,
}

/// A scope of the ceiling that has a delivery slot of its own.
#[derive(Debug)]
pub struct Delivery {
    /// The scope and its parameters, exactly as in the ceiling.
    pub scope: ScopeRequest,
    /// What the program shows to be let in; knowing it is needed, never enough. None for a file.
    pub bearer: Option<Bearer>,
}

/// What a program shows at an endpoint, as far as the agent keeps it: the SHA-256 of 256 random bits. It tells the right one,
/// and gives nobody who reads it anything to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bearer([u8; 32]);

impl Bearer {
    /// Of what is shown.
    pub fn of(shown: &[u8]) -> Self {
        Self(Sha256::digest(shown).into())
    }

    /// As it was kept.
    pub fn from_hash(hash: [u8; 32]) -> Self {
        Self(hash)
    }

    /// To be kept.
    pub fn hash(&self) -> &[u8; 32] {
        &self.0
    }
}

/// How a task ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Over {
    /// In the words of the record.
    pub cause: String,
    /// When it was seen here.
    pub at: SystemTime,
}

/// Who or what ends a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndSignal {
    /// Its anchor holds no more.
    Anchor(EndCause),
    /// A member, or a member of its parent, said so.
    Explicit,
    /// The broker said so; the cause in its words.
    Ordered(String),
    /// The agent stops.
    AgentStops,
    /// A restarted agent found something else in its place, or the broker has something else on record.
    AnchorChanged,
}

impl EndSignal {
    /// The word of `TaskEnded.signal`; `None` where the broker already knows.
    pub fn word(&self) -> Option<&'static str> {
        match self {
            Self::Anchor(EndCause::LeaderExited) => Some("exit"),
            Self::Anchor(EndCause::CgroupEmpty | EndCause::CgroupGone) => Some("cgroup_empty"),
            Self::Explicit => Some("explicit"),
            Self::Ordered(_) => None,
            Self::AgentStops => Some("agent_restarted"),
            Self::AnchorChanged => Some("anchor_changed"),
        }
    }

    /// The cause as watchers are told it (`TaskOver.cause`).
    pub fn cause(&self) -> &str {
        match self {
            Self::Anchor(_) => "anchor_gone",
            Self::Explicit => "explicit",
            Self::Ordered(cause) => cause,
            Self::AgentStops => "node_silent",
            Self::AnchorChanged => "anchor_changed",
        }
    }

    /// The word for metrics.
    pub fn metric(&self) -> &'static str {
        self.word().unwrap_or("ordered")
    }
}

/// What a new task is made of.
#[derive(Debug)]
pub struct NewTask {
    /// The broker's name for it.
    pub id: String,
    /// The root of its tree.
    pub session_id: String,
    /// The task it was opened in.
    pub parent: Option<String>,
    /// When the broker ends it.
    pub deadline: Option<SystemTime>,
    /// What its life hangs on.
    pub anchor: Arc<Anchor>,
    /// Whether what is left is left alone.
    pub leave_orphans: bool,
    /// What is delivered.
    pub deliveries: BTreeMap<&'static str, Delivery>,
    /// Its files.
    pub folder: Option<TaskFolder>,
}

impl From<NewTask> for Task {
    fn from(new: NewTask) -> Self {
        let NewTask { id, session_id, parent, deadline, anchor, leave_orphans, deliveries, folder } = new;
        Self {
            id,
            session_id,
            parent,
            deadline,
            anchor,
            leave_orphans,
            deliveries,
            folder,
            credentials: Credentials::default(),
            ended: CancellationToken::new(),
            over: OnceLock::new(),
        }
    }
}

impl Task {
    /// How it ended, if it has.
    pub fn over(&self) -> Option<&Over> {
        self.over.get()
    }

    /// Whether it may be served. To be asked at the moment of serving.
    pub fn is_open(&self) -> bool {
        self.over.get().is_none()
    }

    /// Completes when it is over.
    pub async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// What is delivered by this provider.
    pub fn delivery(&self, provider: Provider) -> Option<&Delivery> {
        self.deliveries.get(provider.as_str())
    }

    /// Whether `shown` is the bearer of this provider's delivery. Takes as long whatever was shown.
    pub fn has_bearer(&self, provider: Provider, shown: &Bearer) -> bool {
        let bearer = self.delivery(provider).and_then(|delivery| delivery.bearer);
        bearer.is_some_and(|bearer| bearer.0.ct_eq(&shown.0).into())
    }

    /// Stops serving, at once and for good. `false` when it was over already.
    pub(crate) fn finish(&self, cause: &str) -> bool {
        let first = self.over.set(Over { cause: cause.to_owned(), at: SystemTime::now() }).is_ok();
        if first {
            self.credentials.close();
            self.ended.cancel();
        }
        first
    }
}
