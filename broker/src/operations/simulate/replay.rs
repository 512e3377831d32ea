//! One recorded request, decided by the code that decides: with who asked, the tree and the time of then, under any rules.

use dayfly_domain::caller::{Caller, Via};
use dayfly_domain::decision::{self, Decision, Denial, Grant, Opening, Ruling, Wish};
use dayfly_domain::rules::Rules;
use dayfly_domain::scope::Ceiling;
use dayfly_domain::simulation::{NotReplayed, Outcome, Replayed, Subject, Terms, What};
use dayfly_domain::task::{Anchor, AnchorKind, Task};
use dayfly_domain::time::Ttl;

use super::super::explain::{Wanted, enforced};
use super::super::open_task::{check_anchor, check_depth};
use super::super::{Broker, OperationError, Request, authorize, exchange};
use super::question::{Asked, just_after};
use super::trees::Trees;
use crate::caller::admit_through;

/// Where a request stood.
pub(super) struct Stand {
    /// The tree it was asked in: of what would open a task the tree above it.
    pub(super) lineage: Vec<Task>,
    /// What the task hangs on that was opened or claimed.
    anchor: Option<Anchor>,
}

/// Where the request stood.
pub(super) fn stand(asked: &Asked, trees: &Trees) -> Result<Stand, NotReplayed> {
    let at = asked.recorded.at;
    let lineage = asked.recorded.task.map(|task| trees.at(task, at)).unwrap_or_default();
    // A claim of what is not there is refused as any other.
    let is_claim = matches!(asked.recorded.asked, Wanted::Task(Opening::Claimed));
    if asked.recorded.task.is_some() && lineage.is_empty() && !is_claim {
        return Err(NotReplayed::TaskUnknown);
    }
    let own = asked.own.and_then(|own| trees.at(own, just_after(at)).pop());
    Ok(Stand { lineage, anchor: own.map(|own| own.anchor) })
}

/// What the request would be told under the rules.
pub(super) fn outcome(broker: &Broker, rules: &Rules, asked: &Asked, stand: &Stand) -> Outcome {
    let (at, who) = (asked.recorded.at, &asked.recorded.caller);
    let caller = Caller { stage: rules.stage_of(&who.spiffe_id).unwrap_or(who.stage), ..who.clone() };
    if let Via::Agent { node } = &caller.via
        && let Err(refused) = admit_through(rules, node, &caller.spiffe_id)
    {
        return Outcome::Denied { reason: refused.reason(), message: refused.to_string() };
    }
    let request = Request { id: asked.request, caller, at };
    let lineage = &stand.lineage;
    match &asked.recorded.asked {
        // The caller named no scope: which one the record names came of the decision.
        Wanted::Wish(Wish { act: Some(act), .. }) | Wanted::Act(act) => {
            action(broker, rules, &request, lineage, act)
        }
        Wanted::Wish(wish) => credential(broker, rules, &request, lineage, wish),
        Wanted::Task(opening) => {
            let refused = stand.anchor.as_ref().and_then(|anchor| refused_anchor(rules, &request, anchor));
            refused.unwrap_or_else(|| match checked(rules, &request, asked, lineage, opening) {
                Ok(()) => Outcome::Allowed(None),
                Err(denial) => denied(denial),
            })
        }
        Wanted::Exchange(opening, ask) => match checked(rules, &request, asked, lineage, opening) {
            Ok(()) => {
                let ceiling = Ceiling::new(vec![ask.clone()]);
                let mut tree = lineage.clone();
                tree.push(exchange::new_task(broker, &request.caller, lineage, ceiling, None, at));
                let wish = Wish { ask: ask.clone(), ttl: None, act: None };
                credential(broker, rules, &request, &tree, &wish)
            }
            Err(denial) => denied(denial),
        },
    }
}

/// The request for the tally.
pub(super) fn replayed(asked: &Asked) -> Replayed {
    let (what, name) = match &asked.recorded.asked {
        Wanted::Wish(Wish { act: Some(act), .. }) | Wanted::Act(act) => (What::Action, act.to_string()),
        Wanted::Wish(Wish { ask, .. }) | Wanted::Exchange(_, ask) => (What::Credential, ask.scope.clone()),
        Wanted::Task(Opening::Delegated { to, .. }) => (What::DelegateTask, to.to_string()),
        Wanted::Task(Opening::Own { .. } | Opening::OnBehalf { .. }) => (What::OpenTask, String::new()),
        Wanted::Task(Opening::Claimed) => (What::ClaimTask, String::new()),
    };
    Replayed {
        at: asked.recorded.at,
        request: asked.request.to_string(),
        spiffe_id: asked.recorded.caller.spiffe_id.clone(),
        subject: Subject { what, name },
        refused: asked.refused.clone(),
    }
}

/// Whether a task may be opened, or claimed. How deep a tree may be is no rule.
fn checked(
    rules: &Rules,
    request: &Request,
    asked: &Asked,
    above: &[Task],
    opening: &Opening,
) -> Result<(), Denial> {
    let (caller, at) = (&request.caller, request.at);
    match opening {
        Opening::Claimed => return decision::check_claim(rules, caller, above, at),
        Opening::Own { ceiling } => decision::check_open(rules, caller, above, ceiling, at),
        Opening::Delegated { to, ceiling } => decision::check_delegate(rules, caller, above, to, ceiling, at),
        Opening::OnBehalf { given_by, ceiling } => {
            decision::check_on_behalf(rules, caller, given_by, above, ceiling, at)
        }
    }?;
    check_depth(asked.recorded.deepest(above), above)
}

fn credential(broker: &Broker, rules: &Rules, request: &Request, lineage: &[Task], wish: &Wish) -> Outcome {
    let decision = decision::decide(rules, &request.caller, lineage, wish, request.at);
    match enforced(broker, decision) {
        Decision::Allow(grant) => {
            let target = grant.scope.target.render(&grant.ask.parameters).unwrap_or_default();
            let target = Some((grant.scope.provider.clone(), target));
            Outcome::Allowed(Some(Terms { ttl: grant.ttl, target, narrowing: grant.narrowing }))
        }
        Decision::Deny(denial) => denied(denial),
    }
}

fn action(
    broker: &Broker,
    rules: &Rules,
    request: &Request,
    lineage: &[Task],
    act: &decision::Act,
) -> Outcome {
    let Ruling { decision, .. } = decision::decide_act(rules, &request.caller, lineage, act, request.at);
    let grant: Grant = match enforced(broker, decision) {
        Decision::Allow(grant) => grant,
        Decision::Deny(denial) => return denied(denial),
    };
    match authorize::last_moment(request, &grant) {
        Ok(until) => {
            let ttl: Ttl = request.at.until(until);
            Outcome::Allowed(Some(Terms { ttl, target: None, narrowing: grant.narrowing }))
        }
        Err(denial) => denied(denial),
    }
}

/// The refusal, where the task hangs on what its agent may not name. Offers and exchanges hang on nothing that anybody
/// names.
fn refused_anchor(rules: &Rules, request: &Request, anchor: &Anchor) -> Option<Outcome> {
    let observed = match anchor.kind {
        AnchorKind::CgroupOwned | AnchorKind::Process => Some(anchor.clone()),
        AnchorKind::Stream | AnchorKind::Offer | AnchorKind::Deadline => return None,
    };
    match check_anchor(rules, request, observed) {
        Err(OperationError::Invalid { reason, message, .. }) => Some(Outcome::Denied { reason, message }),
        // Nothing else is wrong with what was once taken.
        Ok(_) | Err(_) => None,
    }
}

fn denied(denial: Denial) -> Outcome {
    Outcome::Denied { reason: denial.reason.as_str(), message: denial.message }
}
