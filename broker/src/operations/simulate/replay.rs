//! One recorded request, decided by the code that decides: with who asked, the tree and the time of then, under any rules.

use dayfly_domain::caller::{Caller, Via};
use dayfly_domain::decision::{self, Decision, Denial, Grant, Ruling, Wish};
use dayfly_domain::rules::Rules;
use dayfly_domain::scope::{Ceiling, ScopeAsk};
use dayfly_domain::simulation::{NotReplayed, Outcome, Replayed, Subject, Terms, What};
use dayfly_domain::task::{AnchorKind, Offer, Task, TaskState};
use dayfly_domain::time::Ttl;

use super::super::explain::enforced;
use super::super::open_task::check_anchor;
use super::super::{Broker, OperationError, Request, authorize, exchange};
use super::question::{Asked, Question};
use super::trees::Trees;
use crate::caller::admit_through;

/// The tree the request stood in.
pub(super) fn stand(broker: &Broker, asked: &Asked, trees: &Trees) -> Result<Vec<Task>, NotReplayed> {
    let mut lineage = match asked.question.task() {
        Some(task) => trees.at(task, asked.at),
        None => Vec::new(),
    };
    match (&asked.question, lineage.last_mut()) {
        (Question::Exchange { ask, task: None }, _) => {
            let ceiling = Ceiling::new(vec![ask.clone()]);
            lineage.push(exchange::new_task(broker, &asked.caller, &[], ceiling, None, asked.at));
        }
        (_, None) => return Err(NotReplayed::TaskUnknown),
        // It was an offer until then.
        (Question::Claim { taken: true, .. }, Some(own)) => {
            let (TaskState::Open { deadline } | TaskState::Ended { at: deadline, .. }) = own.state;
            own.offer = Some(Offer { deadline });
        }
        (_, Some(_)) => {}
    }
    Ok(lineage)
}

/// What the request would be told under the rules.
pub(super) fn outcome(broker: &Broker, rules: &Rules, asked: &Asked, lineage: &[Task]) -> Outcome {
    let stage = rules.stage_of(&asked.caller.spiffe_id).unwrap_or(asked.caller.stage);
    let caller = Caller { stage, ..asked.caller.clone() };
    if let Via::Agent { node } = &caller.via
        && let Err(refused) = admit_through(rules, node, &caller.spiffe_id)
    {
        return Outcome::Denied { reason: refused.reason(), message: refused.to_string() };
    }
    let (at, request) = (asked.at, request(asked, caller));
    let caller = &request.caller;
    let (own, above) = lineage.split_last().expect("a lineage holds the task itself");
    // How deep a tree may be is no rule: what is replayed was not too deep.
    let opened = |checked: Result<(), Denial>| match checked {
        Ok(()) => Outcome::Allowed(None),
        Err(denial) => denied(denial),
    };
    match &asked.question {
        Question::Credential { wish, .. } => credential(broker, rules, &request, lineage, wish),
        Question::Action { act, .. } => {
            let Ruling { decision, .. } = decision::decide_act(rules, caller, lineage, act, at);
            match enforced(broker, decision) {
                Decision::Deny(denial) => denied(denial),
                Decision::Allow(grant) => match authorize::last_moment(&request, &grant) {
                    Ok(until) => allowed(grant, at.until(until), false),
                    Err(denial) => denied(denial),
                },
            }
        }
        Question::Exchange { ask, .. } => {
            let checked = match above.last() {
                None => decision::check_open(rules, caller, above, &own.ceiling, at),
                // A token only hands on what its holder's task may: it was checked that the holder had been given it.
                Some(task) => {
                    decision::check_on_behalf(rules, caller, &task.opened_by, above, &own.ceiling, at)
                }
            };
            match opened(checked) {
                Outcome::Allowed(_) => {
                    let wish = Wish { ask: ask.clone(), ttl: None, act: None };
                    credential(broker, rules, &request, lineage, &wish)
                }
                refused @ Outcome::Denied { .. } => refused,
            }
        }
        Question::Open { .. } => refused_anchor(rules, &request, own)
            .unwrap_or_else(|| opened(decision::check_open(rules, caller, above, &own.ceiling, at))),
        Question::Delegate { .. } => {
            opened(decision::check_delegate(rules, caller, above, &own.opened_by, &own.ceiling, at))
        }
        Question::Claim { .. } => refused_anchor(rules, &request, own).unwrap_or_else(|| {
            match decision::check_claim(rules, caller, lineage, at) {
                Ok(()) => Outcome::Allowed(None),
                Err(denial) => denied(denial),
            }
        }),
    }
}

/// The request for the tally.
pub(super) fn replayed(asked: &Asked, lineage: &[Task]) -> Replayed {
    let holder = || lineage.last().map(|task| task.opened_by.to_string()).unwrap_or_default();
    let of_scope = |ask: &ScopeAsk| (What::Credential, ask.scope.clone());
    let (what, name) = match &asked.question {
        Question::Credential { wish, .. } => of_scope(&wish.ask),
        Question::Exchange { ask, .. } => of_scope(ask),
        Question::Action { act, .. } => (What::Action, act.to_string()),
        Question::Open { .. } => (What::OpenTask, String::new()),
        Question::Delegate { .. } => (What::DelegateTask, holder()),
        Question::Claim { .. } => (What::ClaimTask, String::new()),
    };
    Replayed {
        at: asked.at,
        request: asked.request.to_string(),
        spiffe_id: asked.caller.spiffe_id.clone(),
        subject: Subject { what, name },
        refused: asked.refused.clone(),
    }
}

fn request(asked: &Asked, caller: Caller) -> Request {
    Request { id: asked.request, caller, at: asked.at }
}

fn credential(broker: &Broker, rules: &Rules, request: &Request, lineage: &[Task], wish: &Wish) -> Outcome {
    let decision = decision::decide(rules, &request.caller, lineage, wish, request.at);
    match enforced(broker, decision) {
        Decision::Allow(grant) => {
            let ttl = grant.ttl;
            allowed(grant, ttl, wish.act.is_none())
        }
        Decision::Deny(denial) => denied(denial),
    }
}

/// The refusal, where the task hangs on what its agent may not name. Offers and exchanges hang on nothing that anybody
/// names.
fn refused_anchor(rules: &Rules, request: &Request, own: &Task) -> Option<Outcome> {
    let observed = match own.anchor.kind {
        AnchorKind::CgroupOwned | AnchorKind::Process => Some(own.anchor.clone()),
        AnchorKind::Stream | AnchorKind::Offer | AnchorKind::Deadline => return None,
    };
    match check_anchor(rules, request, observed) {
        Err(OperationError::Invalid { reason, message, .. }) => Some(Outcome::Denied { reason, message }),
        // Nothing else is wrong with what was once taken.
        Ok(_) | Err(_) => None,
    }
}

fn allowed(grant: Grant, ttl: Ttl, gives_credential: bool) -> Outcome {
    let target = gives_credential.then(|| {
        let rendered = grant.scope.target.render(&grant.ask.parameters).unwrap_or_default();
        (grant.scope.provider.clone(), rendered)
    });
    Outcome::Allowed(Some(Terms { ttl, target, narrowing: grant.narrowing }))
}

fn denied(denial: Denial) -> Outcome {
    Outcome::Denied { reason: denial.reason.as_str(), message: denial.message }
}
