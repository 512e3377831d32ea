//! Opens a task: who may, under which parent, with which ceiling, until when.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use dayfly_domain::audit::Record;
use dayfly_domain::caller::Via;
use dayfly_domain::decision::{self, Denial, DenyReason};
use dayfly_domain::id::{SessionId, TaskId};
use dayfly_domain::rules::Rules;
use dayfly_domain::scope::Ceiling;
use dayfly_domain::secret::Secret;
use dayfly_domain::spiffe::SpiffeId;
use dayfly_domain::task::{Anchor, AnchorKind, EndCause, Task, TaskState};
use dayfly_domain::time::{Timestamp, Ttl};
use sha2::{Digest, Sha256};

use super::pace::Against;
use super::{Asked, Broker, OperationError, Request, decision_record, holders};

/// What was asked, checked for form.
#[derive(Debug)]
pub struct OpenTask {
    /// The innermost task the caller stands in: read from the kernel by its agent.
    pub parent: Option<TaskId>,
    /// Everything the task and all under it may ask for.
    pub ceiling: Ceiling,
    /// How long the task may last.
    pub max_duration: Option<Ttl>,
    /// What the agent observed; none from a direct caller.
    pub anchor: Option<Anchor>,
    /// Claimed.
    pub intent: String,
    /// Claimed.
    pub labels: std::collections::BTreeMap<String, String>,
}

/// The open task.
#[derive(Debug)]
pub struct Opened {
    /// Its id.
    pub task: TaskId,
    /// Its session.
    pub session: SessionId,
    /// When the broker ends it.
    pub deadline: Timestamp,
    /// What a direct caller shows from now on.
    pub key: Option<Secret>,
    /// Each scope of the ceiling with its provider.
    pub providers: Vec<(String, String)>,
}

/// Decides → writes the task → answers.
pub async fn open_task(
    broker: &Arc<Broker>,
    request: Request,
    wish: OpenTask,
) -> Result<Opened, OperationError> {
    broker.pace(&request, &[Against::Caller])?;
    let task_of = Arc::clone(broker);
    let owner = Arc::clone(broker);
    let undelivered = move |opened: Opened| async move {
        super::end_task::end_by_signal(&owner, opened.task, EndCause::AnchorGone, None).await;
    };
    broker.run_to_end(async move { open(&task_of, &request, wish).await }, undelivered).await
}

async fn open(broker: &Arc<Broker>, request: &Request, wish: OpenTask) -> Result<Opened, OperationError> {
    let above = match wish.parent {
        Some(parent) => broker.lineage(parent, None, &request.caller).await?,
        None => Vec::new(),
    };
    if let Some(root) = above.first() {
        broker.pace(request, &[Against::Session(root.session)])?;
    }
    let rules = broker.rules.load();
    let anchor = check_anchor(&rules, request, wish.anchor)?;
    let checked = decision::check_open(&rules, &request.caller, &above, &wish.ceiling, request.at);
    let tell = |record: Record| match wish.parent {
        Some(parent) => record.with("parent_task_id", parent),
        None => record,
    };
    if let Err(denial) = checked.and_then(|()| check_depth(broker.limits.task_depth, &above)) {
        let asked =
            Asked { what: "open_task", task: None, ask: wish.ceiling.lines().first(), ttl: None, act: None };
        let tell = |record: Record| declared(tell(record), &wish.ceiling);
        broker.record_denial_with(request, &asked, &denial, tell).await;
        return Err(OperationError::Denied(denial));
    }
    let id = TaskId::new(request.at, rand::random());
    let session = above.first().map_or_else(|| SessionId::from(id), |root| root.session);
    let deadline =
        deadline(broker, request.at, &above, wish.max_duration, longest(broker, &request.caller.via));
    let key = matches!(request.caller.via, Via::Direct { .. }).then(new_key);
    let providers = providers(&rules, &wish.ceiling);
    let chain: Vec<&SpiffeId> = holders(&above).into_iter().chain([&request.caller.spiffe_id]).collect();
    let decision = tell(decision_record("decision.allow", "open_task", request))
        .with("task_id", id)
        .with("session_id", session)
        .with("chain", chain)
        .with("ceiling", &wish.ceiling)
        .with("deadline", deadline.to_string())
        .with("revision", rules.revision)
        .with("rules_digest", &rules.digest)
        .with("claimed", serde_json::json!({"intent": wish.intent, "labels": wish.labels}));
    let task = Task {
        id,
        session,
        parent: wish.parent,
        opened_by: request.caller.spiffe_id.clone(),
        stage: request.caller.stage,
        node: request.caller.via.node().cloned(),
        anchor,
        key_hash: key.as_ref().map(|key| Sha256::digest(key.expose()).into()),
        ceiling: wish.ceiling,
        intent: wish.intent,
        labels: wish.labels,
        offer: None,
        opened_at: request.at,
        state: TaskState::Open { deadline },
    };
    let streams = task.anchor.kind == AnchorKind::Stream;
    broker.store.open_task(task, decision, request.id).await?;
    if streams {
        broker.stream_anchors.expect(id);
    }
    broker.metrics.task_opened();
    tracing::info!(task_id = %id, session_id = %session, spiffe_id = %request.caller.spiffe_id, "task opened");
    Ok(Opened { task: id, session, deadline, key, providers })
}

/// Each scope of a ceiling with its provider.
pub(super) fn providers(rules: &Rules, ceiling: &Ceiling) -> Vec<(String, String)> {
    let provider = |scope: &str| rules.scope(scope).map(|found| (scope.to_owned(), found.provider.clone()));
    ceiling.lines().iter().filter_map(|line| provider(&line.scope)).collect()
}

/// How long a task may last whose holder comes this way.
pub(super) fn longest(broker: &Broker, via: &Via) -> Ttl {
    match via {
        Via::Direct { .. } => broker.limits.direct_task,
        Via::Agent { .. } => broker.limits.longest_task,
    }
}

/// Longest ceiling in the record of a denial, in bytes of JSON: a caller that is refused again and again must not fill the
/// audit.
const LONGEST_DECLARED: usize = 8 * 1024;

/// Tells what a task that is refused was to declare, as long as it is short.
pub(super) fn declared(record: Record, ceiling: &Ceiling) -> Record {
    let json = serde_json::json!(ceiling);
    match json.to_string().len() > LONGEST_DECLARED {
        true => record.with("ceiling_lines", ceiling.lines().len()),
        false => record.with("ceiling", json),
    }
}

/// A tree of tasks grows no deeper than `most` (`limits.task_depth`). `above` is the tree that the new one would stand in.
pub(super) fn check_depth(most: u32, above: &[Task]) -> Result<(), Denial> {
    match u32::try_from(above.len()).is_ok_and(|depth| depth < most) {
        true => Ok(()),
        false => {
            let what =
                format!("a task would stand below {} others and {most} in a line are the most", above.len());
            Err(DenyReason::TaskTreeTooDeep.denial(what))
        }
    }
}

/// The latest of the broker's own, never past what is above: it alone keeps the deadline.
pub(super) fn deadline(
    broker: &Broker,
    now: Timestamp,
    above: &[Task],
    asked: Option<Ttl>,
    most: Ttl,
) -> Timestamp {
    let own = now + asked.unwrap_or(broker.limits.default_task).min(most);
    above.iter().fold(own, |least, task| match task.state {
        TaskState::Open { deadline } => least.min(deadline),
        TaskState::Ended { at, .. } => least.min(at),
    })
}

/// What a task opened or claimed by this caller hangs on: what its agent observed, or its own stream.
pub(super) fn check_anchor(
    rules: &Rules,
    request: &Request,
    observed: Option<Anchor>,
) -> Result<Anchor, OperationError> {
    let invalid = |reason, message: String, next| Err(OperationError::Invalid { reason, message, next });
    match (&request.caller.via, observed) {
        (Via::Direct { .. }, None) => Ok(Anchor::of_no_process(AnchorKind::Stream)),
        (Via::Direct { .. }, Some(_)) => invalid(
            "ANCHOR_NOT_YOURS",
            "a direct caller's anchor is its own WatchTask stream; it may name no other".to_owned(),
            "leave `anchor` out, or run under a node agent",
        ),
        (Via::Agent { .. }, None) => invalid(
            "ANCHOR_MISSING",
            "an agent must say what the task hangs on".to_owned(),
            "update the node agent",
        ),
        (Via::Agent { node }, Some(anchor)) => {
            let rule = rules.node(node).ok_or(OperationError::Bug("the node rule went away"))?;
            if !rule.anchors.contains(&anchor.kind) {
                let message = format!("node {} may not name anchor {}", rule.name, anchor.kind.as_str());
                return invalid("ANCHOR_NOT_ALLOWED", message, "add the anchor to the Node document");
            }
            if anchor.attested_by != "pidfd" && !rule.allow_peercred {
                let message = format!("node {} must know callers by pidfd", rule.name);
                return invalid(
                    "ATTESTED_TOO_WEAKLY",
                    message,
                    "use Linux 6.5 or newer, or set allow_peercred",
                );
            }
            Ok(anchor)
        }
    }
}

/// What a direct caller shows from now on.
pub(super) fn new_key() -> Secret {
    let bytes: [u8; 32] = rand::random();
    Secret::new(URL_SAFE_NO_PAD.encode(bytes))
}
