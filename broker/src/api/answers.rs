//! Answers to questions, as protobuf has them.

use dayfly_domain::binding::{Binding, Start, ViaRule};
use dayfly_domain::decision::{Decision, Denial, Grant};
use dayfly_domain::pattern::SpiffePattern;
use dayfly_domain::policy::Narrowing;
use dayfly_domain::reach::{Entry, Horizon, Outcome, Standing, Values, Way};
use dayfly_domain::scope::{Promise, Scope};
use dayfly_domain::time::Timestamp;
use dayfly_domain::who_can::{Holder, Place};
use dayfly_proto::v1;

use super::wire;
use crate::operations::explain::{Explained, PastDecision, Verdict};
use crate::operations::reach::{Reached, ReachedTask};
use crate::operations::who_can::{HeldScope, WhoCan};
use crate::store::LeaseRow;

/// A decision on record, and once more.
pub fn past(past: PastDecision) -> v1::PastDecision {
    let (then, not_decided) = match past.then {
        Ok(then) => (Some(explained(then)), String::new()),
        Err(why) => (None, why),
    };
    v1::PastDecision {
        writer: past.row.writer,
        seq: past.row.seq,
        record: past.row.bytes,
        then,
        not_decided,
        differs: past.differs,
        today: past.today.map(explained),
    }
}

/// A decision with its steps.
pub fn explained(explained: Explained) -> v1::Explanation {
    let step = |step: dayfly_domain::decision::Step| v1::ExplainedStep {
        rule: step.rule,
        matched: step.matched,
        what: step.what,
    };
    v1::Explanation {
        verdict: Some(match &explained.verdict {
            Verdict::Request(decision) => verdict(decision),
            Verdict::Task(Ok(())) => v1::Verdict { allowed: true, ..v1::Verdict::default() },
            Verdict::Task(Err(denial)) => denied(denial),
        }),
        steps: explained.steps.into_iter().map(step).collect(),
        chain: explained.chain.iter().map(ToString::to_string).collect(),
        hypothetical: explained.hypothetical,
        revision: explained.revision,
    }
}

fn verdict(decision: &Decision) -> v1::Verdict {
    match decision {
        Decision::Allow(grant) => allowed(grant),
        Decision::Deny(denial) => denied(denial),
    }
}

fn denied(denial: &Denial) -> v1::Verdict {
    v1::Verdict {
        reason: denial.reason.as_str().to_owned(),
        message: denial.message.clone(),
        next: denial.next.clone(),
        ..v1::Verdict::default()
    }
}

fn allowed(grant: &Grant) -> v1::Verdict {
    let narrowing = (grant.narrowing != Narrowing::default())
        .then(|| serde_json::to_string(&grant.narrowing).unwrap_or_default());
    v1::Verdict {
        allowed: true,
        binding: grant.binding.clone(),
        ttl: Some(wire::duration(grant.ttl)),
        approval_id: grant.approval.clone().unwrap_or_default(),
        narrowing: narrowing.unwrap_or_default(),
        ..v1::Verdict::default()
    }
}

/// What is in reach.
pub fn reached(reached: Reached) -> v1::ReachResponse {
    let at = reached.at;
    let bound = |(entry, promise): &(Entry, Option<Promise>)| bound(entry, promise.clone());
    v1::ReachResponse {
        at: Some(wire::time(at)),
        revision: reached.revision,
        stage: reached.stage.map(|stage| stage.to_string()).unwrap_or_default(),
        agents: texts(&reached.agents),
        bound: reached.entries.iter().map(bound).collect(),
        tasks: reached.tasks.iter().map(|task| reached_task(task, at)).collect(),
        leases: reached.elsewhere.iter().map(|row| lease(row, at)).collect(),
        horizon: Some(horizon(reached.horizon)),
        more: reached.more,
    }
}

fn reached_task(reached: &ReachedTask, at: Timestamp) -> v1::ReachedTask {
    let live = u32::try_from(reached.leases.len()).unwrap_or(u32::MAX);
    let lines = reached.lines.iter().map(|(line, promise)| v1::ReachedLine {
        scope: Some(wire::scope_request(&line.wish.ask)),
        act: line.wish.act.as_ref().map(ToString::to_string).unwrap_or_default(),
        verdict: Some(verdict(&line.decision)),
        promise: promise.as_ref().map(wire::promise),
    });
    v1::ReachedTask {
        task: Some(wire::task(&reached.task, live)),
        offered_until: reached.task.offer.and_then(|_| match reached.task.state {
            dayfly_domain::task::TaskState::Open { deadline } => Some(wire::time(deadline)),
            dayfly_domain::task::TaskState::Ended { .. } => None,
        }),
        lines: lines.collect(),
        leases: reached.leases.iter().map(|row| lease(row, at)).collect(),
        horizon: Some(horizon(reached.horizon)),
    }
}

fn lease(row: &LeaseRow, at: Timestamp) -> v1::ReachedLease {
    v1::ReachedLease {
        lease: Some(wire::lease(row)),
        horizon: Some(horizon(Horizon::of_lease(&row.lease, at))),
    }
}

fn horizon(horizon: Horizon) -> v1::Horizon {
    v1::Horizon {
        at_the_latest: horizon.at_the_latest.map(wire::time),
        if_ended_now: horizon.if_ended_now.map(wire::time),
    }
}

/// Who may have it.
pub fn who_can(answer: WhoCan) -> v1::WhoCanResponse {
    let mut scopes: Vec<v1::HeldScope> = answer.scopes.iter().map(held).collect();
    if let Some(verb) = answer.admins.first().map(|binding| binding.scope.clone()) {
        let holders = answer
            .admins
            .iter()
            .map(|binding| v1::Holder { bound: Some(of_binding(binding)), somebody: String::new() });
        scopes.push(v1::HeldScope { scope: verb, holders: holders.collect(), ..v1::HeldScope::default() });
    }
    v1::WhoCanResponse {
        at: Some(wire::time(answer.at)),
        revision: answer.revision,
        scopes,
        root_admins: answer.root_admins.iter().map(ToString::to_string).collect(),
    }
}

fn held(held: &HeldScope) -> v1::HeldScope {
    let place = |place: &Place| v1::TargetPlace {
        path: place.path.clone(),
        text: place.leaf.clone(),
        parameters: place.values.clone().into_iter().collect(),
    };
    let holder = |holder: &Holder| match &holder.somebody {
        Some((id, entry)) => v1::Holder { bound: Some(bound(entry, None)), somebody: id.to_string() },
        None => v1::Holder {
            bound: Some(of_scope(of_binding(&holder.binding), &held.scope)),
            somebody: String::new(),
        },
    };
    let live = |(id, leases, until): &(dayfly_domain::spiffe::SpiffeId, u32, Horizon)| v1::LiveHolder {
        spiffe_id: id.to_string(),
        leases: *leases,
        horizon: Some(horizon(*until)),
    };
    v1::HeldScope {
        scope: held.scope.name.clone(),
        description: held.scope.description.clone(),
        provider: held.scope.provider.clone(),
        stages: held.scope.stages.iter().map(ToString::to_string).collect(),
        places: held.places.iter().map(place).collect(),
        holders: held.holders.iter().map(holder).collect(),
        more: held.more,
        live: held.live.iter().map(live).collect(),
    }
}

fn bound(entry: &Entry, promise: Option<Promise>) -> v1::BoundScope {
    let parameter = |(name, values): (&String, &Values)| {
        let (one_of, constraint) = match values {
            Values::OneOf(values) => (values.clone(), String::new()),
            Values::Any(words) => (Vec::new(), words.clone()),
        };
        v1::AllowedParameter { name: name.clone(), one_of, constraint }
    };
    v1::BoundScope {
        parameters: entry.values.iter().map(parameter).collect(),
        policies: entry.policies.clone(),
        promise: promise.as_ref().map(wire::promise),
        decided: entry.outcomes.iter().map(outcome).collect(),
        complete: entry.complete,
        ..of_scope(of_binding(&entry.binding), &entry.scope)
    }
}

/// A binding as its document says.
pub(super) fn of_binding(binding: &Binding) -> v1::BoundScope {
    let start = match binding.start {
        Start::Root => "root",
        Start::UnderParent => "under_parent",
    };
    let via = match binding.via {
        ViaRule::Agent => "agent",
        ViaRule::Direct => "direct",
    };
    v1::BoundScope {
        scope: binding.scope.clone(),
        binding: binding.name.clone(),
        identities: texts(&binding.identities),
        may_use: binding.may_use,
        delegate_to: binding.delegate.as_ref().map(|to| texts(&to.to)).unwrap_or_default(),
        delegate_depth: binding.delegate.as_ref().map(|to| to.depth).unwrap_or_default(),
        start: start.to_owned(),
        via: via.to_owned(),
        max_task: Some(wire::duration(binding.max_task)),
        until: binding.until.map(wire::time),
        ticket: binding.ticket.clone(),
        owner: binding.owner.clone(),
        ..v1::BoundScope::default()
    }
}

fn texts(patterns: &[SpiffePattern]) -> Vec<String> {
    patterns.iter().map(ToString::to_string).collect()
}

fn of_scope(bound: v1::BoundScope, scope: &Scope) -> v1::BoundScope {
    v1::BoundScope {
        max_ttl: Some(wire::duration(scope.ttl.max)),
        approval: scope.approval.is_some(),
        ..bound
    }
}

fn outcome(outcome: &Outcome) -> v1::DecidedScope {
    use v1::decided_scope::Standing as Wire;
    let (standing, why, ttl) = match &outcome.standing {
        Standing::Allowed(grant) => (Wire::Allowed, String::new(), Some(wire::duration(grant.ttl))),
        Standing::ApprovalMissing => (Wire::ApprovalMissing, String::new(), None),
        Standing::PolicyDenied(denial) => (Wire::PolicyDenied, denial.message.clone(), None),
        Standing::Nowhere(why) => (Wire::Nowhere, why.clone(), None),
        Standing::NoExample => (Wire::NoExample, String::new(), None),
    };
    let parent = |way: &Way| {
        let parent = way.parent.as_ref()?;
        let others = parent.binding.delegate.as_ref().filter(|_| parent.in_task_of.is_some());
        Some(v1::ParentNeeded {
            binding: parent.binding.name.clone(),
            identities: texts(&parent.binding.identities),
            in_task_of: others.map(|delegation| texts(&delegation.to)).unwrap_or_default(),
        })
    };
    v1::DecidedScope {
        scope: Some(wire::scope_request(&outcome.ask)),
        act: outcome.act.as_ref().map(ToString::to_string).unwrap_or_default(),
        standing: standing.into(),
        why,
        ttl,
        parents: outcome.ways.iter().filter_map(parent).collect(),
    }
}
