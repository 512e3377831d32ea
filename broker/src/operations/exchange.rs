//! Trades a proven identity for an access token, for callers that keep neither a stream nor a key: decide → open a task →
//! issue under it → answer.
//!
//! The task holds this one credential and ends with it. Where the caller was given a token of another's task, its own
//! task stands below that one and ends with it.

use std::sync::Arc;

use dayfly_domain::audit::Record;
use dayfly_domain::caller::Caller;
use dayfly_domain::decision::{self, Decision, Denial, Wish};
use dayfly_domain::id::{LeaseId, SessionId, TaskId};
use dayfly_domain::rules::Rules;
use dayfly_domain::scope::{Ceiling, ScopeAsk};
use dayfly_domain::secret::Secret;
use dayfly_domain::spiffe::SpiffeId;
use dayfly_domain::task::{Anchor, AnchorKind, EndCause, Task, TaskState};
use dayfly_domain::time::Timestamp;
use sha2::{Digest, Sha256};

use super::end_task::end_by_signal;
use super::issue::{self, Answer, IssueCredential};
use super::open_task::{check_depth, new_key};
use super::pace::Against;
use super::{Asked, Broker, OperationError, Request, decision_record, holders};
use crate::providers::{Credential, token};

/// What records say was asked.
const WHAT: &str = "token_exchange";

/// What is asked, checked for form.
#[derive(Debug)]
pub struct Exchange {
    /// Scope and values.
    pub ask: ScopeAsk,
    /// The service the token must be for, if the caller said.
    pub audience: Option<String>,
    /// The token of another's task that the caller was given, if it acts on behalf of somebody.
    pub on_behalf_of: Option<Given>,
}

/// A token that was given to the caller. Its lease is active, and it is for the caller alone.
#[derive(Clone, Debug)]
pub struct Given {
    /// Its lease.
    pub lease: LeaseId,
    /// The task of the lease.
    pub task: TaskId,
    /// Whom it was issued to.
    pub by: SpiffeId,
}

/// An access token on its way to the caller.
#[derive(Debug)]
pub struct Exchanged {
    /// The task it belongs to.
    pub task: TaskId,
    /// The token.
    pub access_token: Secret,
    /// When it runs out.
    pub expires_at: Timestamp,
}

/// Exchanges. Once begun it runs to its end though the client hangs up; a token that nobody waits for any more ends with
/// its task.
pub async fn exchange(
    broker: &Arc<Broker>,
    request: Request,
    asked: Exchange,
) -> Result<Exchanged, OperationError> {
    broker.pace(&request, &[Against::Caller, Against::Scope(&asked.ask.scope)])?;
    let worker = Arc::clone(broker);
    let owner = Arc::clone(broker);
    let undelivered = move |lost: Exchanged| async move {
        end_by_signal(&owner, lost.task, EndCause::AnchorGone, None).await;
    };
    broker.run_to_end(async move { run(&worker, &request, asked).await }, undelivered).await
}

async fn run(broker: &Arc<Broker>, request: &Request, asked: Exchange) -> Result<Exchanged, OperationError> {
    let above = match &asked.on_behalf_of {
        Some(given) => broker.store.lineage(given.task).await?,
        None => Vec::new(),
    };
    if let Some(root) = above.first() {
        broker.pace(request, &[Against::Session(root.session)])?;
    }
    let rules = broker.rules.load_full();
    let ceiling = Ceiling::new(vec![asked.ask.clone()]);
    let checked = check(&rules, request, &asked, &above, &ceiling);
    if let Err(denial) = checked.and_then(|()| check_depth(broker.limits.task_depth, &above)) {
        return Err(deny(broker, request, &asked, &above, denial).await);
    }
    check_target(&rules, &asked)?;
    let wish = Wish { ask: asked.ask.clone(), ttl: None, act: None };
    let key = new_key();
    let mut lineage = above;
    lineage.push(new_task(broker, &request.caller, &lineage, ceiling, Some(&key), request.at));
    // Decided before there is a task: what is denied leaves none behind, and the grant says how long it must last.
    let grant = match decision::decide(&rules, &request.caller, &lineage, &wish, request.at) {
        Decision::Allow(grant) => grant,
        Decision::Deny(denial) => return Err(deny(broker, request, &asked, &lineage, denial).await),
    };
    let task = lineage.pop().expect("it was just put there");
    let task = Task { state: TaskState::Open { deadline: request.at + grant.ttl }, ..task };
    lineage.push(task.clone());
    let id = open(broker, request, &rules, task, asked.on_behalf_of.as_ref()).await?;
    let credential =
        IssueCredential { task: id, key: Some(key), wish, renews: None, issue_key: None, what: WHAT };
    let issued = issue::run(broker, request, &lineage, credential).await;
    match issued.and_then(|answer| deliver(id, answer)) {
        Ok(exchanged) => Ok(exchanged),
        Err(error) => {
            // Nobody holds anything of it.
            end_by_signal(broker, id, EndCause::AnchorGone, Some(request.id)).await;
            Err(error)
        }
    }
}

/// There is no task yet, so the record names the one it would have stood below.
async fn deny(
    broker: &Broker,
    request: &Request,
    asked: &Exchange,
    lineage: &[Task],
    denial: Denial,
) -> OperationError {
    let of = Asked { what: WHAT, task: None, ask: Some(&asked.ask), ttl: None, act: None };
    let tell =
        |record: Record| on_behalf_of(record.with("chain", holders(lineage)), asked.on_behalf_of.as_ref());
    broker.record_denial_with(request, &of, &denial, tell).await;
    OperationError::Denied(denial)
}

fn on_behalf_of(record: Record, given: Option<&Given>) -> Record {
    match given {
        Some(Given { lease, task, by }) => record
            .with("on_behalf_of", serde_json::json!({"lease_id": lease, "task_id": task, "spiffe_id": by})),
        None => record,
    }
}

/// Whether such a task may be opened at all.
fn check(
    rules: &Rules,
    request: &Request,
    asked: &Exchange,
    above: &[Task],
    ceiling: &Ceiling,
) -> Result<(), Denial> {
    match &asked.on_behalf_of {
        None => decision::check_open(rules, &request.caller, above, ceiling, request.at),
        Some(given) => {
            decision::check_on_behalf(rules, &request.caller, &given.by, above, ceiling, request.at)
        }
    }
}

/// Only access tokens are exchanged for, and for the service the caller means.
fn check_target(rules: &Rules, asked: &Exchange) -> Result<(), OperationError> {
    let name = &asked.ask.scope;
    let invalid = |reason, message, next| Err(OperationError::Invalid { reason, message, next });
    let scope = rules.scope(name).ok_or(OperationError::Bug("a scope that was checked is not there"))?;
    if scope.provider != token::NAME {
        return invalid(
            "NOT_A_TOKEN_SCOPE",
            format!("scope {name:?} gives no access tokens"),
            "ask for it over gRPC, or through a node agent",
        );
    }
    // An audience takes no parameters, so what the document says is what the token will.
    let audience = scope.target.tree()["audience"].as_str();
    match asked.audience.as_deref() {
        Some(wanted) if audience != Some(wanted) => invalid(
            "AUDIENCE_MISMATCH",
            format!("tokens of scope {name:?} are for another audience than {wanted:?}"),
            "leave `audience` out, or ask for a scope of that service",
        ),
        Some(_) | None => Ok(()),
    }
}

/// The caller's own task, below those that are there already. Nobody keeps its key, so nothing more is ever asked in it.
pub(super) fn new_task(
    broker: &Broker,
    caller: &Caller,
    above: &[Task],
    ceiling: Ceiling,
    key: Option<&Secret>,
    now: Timestamp,
) -> Task {
    let id = TaskId::new(now, rand::random());
    let latest = now + broker.limits.direct_task;
    let deadline = above.iter().fold(latest, |least, task| match task.state {
        TaskState::Open { deadline } => least.min(deadline),
        TaskState::Ended { at, .. } => least.min(at),
    });
    Task {
        id,
        session: above.first().map_or_else(|| SessionId::from(id), |root| root.session),
        parent: above.last().map(|parent| parent.id),
        opened_by: caller.spiffe_id.clone(),
        stage: caller.stage,
        node: None,
        anchor: Anchor::of_no_process(AnchorKind::Deadline),
        key_hash: key.map(|key| Sha256::digest(key.expose()).into()),
        ceiling,
        intent: "token exchange".to_owned(),
        labels: Default::default(),
        offer: None,
        opened_at: now,
        state: TaskState::Open { deadline },
    }
}

async fn open(
    broker: &Broker,
    request: &Request,
    rules: &Rules,
    task: Task,
    given: Option<&Given>,
) -> Result<TaskId, OperationError> {
    let TaskState::Open { deadline } = task.state else {
        return Err(OperationError::Bug("a task that ends before it began"));
    };
    let record = decision_record("decision.allow", WHAT, request)
        .with("ceiling", &task.ceiling)
        .with("task_id", task.id)
        .with("session_id", task.session)
        .with("deadline", deadline.to_string())
        .with("revision", rules.revision)
        .with("rules_digest", &rules.digest);
    let record = on_behalf_of(record, given);
    let (id, session) = (task.id, task.session);
    broker.store.open_task(task, record, request.id).await?;
    broker.metrics.task_opened();
    tracing::info!(task_id = %id, session_id = %session, spiffe_id = %request.caller.spiffe_id, "task opened");
    Ok(id)
}

fn deliver(task: TaskId, answer: Answer) -> Result<Exchanged, OperationError> {
    match answer.credential {
        Some(Credential::Token { access_token, .. }) => {
            Ok(Exchanged { task, access_token, expires_at: answer.expires_at })
        }
        Some(Credential::Aws { .. } | Credential::Vault { .. }) | None => {
            Err(OperationError::Bug("a token scope gave something else"))
        }
    }
}
