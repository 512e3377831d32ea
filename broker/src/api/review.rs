//! `QuestionService.Review`: what was asked, and what came of it, as protobuf has it.

use dayfly_domain::binding::AllowedValues;
use dayfly_domain::id::RequestId;
use dayfly_domain::review::{Count, Counted, Proposal, Reviewed, Unneeded, Wanted};
use dayfly_domain::spiffe::SpiffeId;
use dayfly_domain::time::Ttl;
use dayfly_domain::who_can::LONGEST_TEXT;
use dayfly_proto::v1;
use tonic::Status;

use super::answers::of_binding;
use super::question::spiffe_id;
use super::{status, wire};
use crate::operations::review::{Review, ReviewedBinding};

/// The furthest back that records are read.
const LONGEST_BACK: Ttl = Ttl::hours(24 * 400);
/// Identities, and values of one parameter, that are told of one binding.
const MOST_TOLD: usize = 20;

/// Which bindings, and how far back.
pub fn asked(wire: v1::ReviewRequest, id: RequestId) -> Result<(Wanted, Ttl), Status> {
    let v1::ReviewRequest { since, binding, scope, spiffe_id: identity } = wire;
    let next = "give --since, 90d for example, and at most one of --binding, --scope and --spiffe-id";
    let invalid = |message: String| status::invalid("REVIEW_INVALID", message, next, id);
    let back = wire::span(since, id)?.ok_or_else(|| invalid("since is missing".to_owned()))?;
    if back > LONGEST_BACK {
        return Err(invalid(format!("records are read back for {LONGEST_BACK} at most")));
    }
    if binding.len() > LONGEST_TEXT || scope.len() > LONGEST_TEXT {
        return Err(invalid(format!("a name has at most {LONGEST_TEXT} bytes")));
    }
    let some = |text: String| (!text.is_empty()).then_some(text);
    let identity = some(identity).map(|text| spiffe_id(&text, id)).transpose()?;
    Ok((Wanted { binding: some(binding), scope: some(scope), identity }, back))
}

/// The answer.
pub fn reviewed(review: &Review) -> v1::ReviewResponse {
    v1::ReviewResponse {
        at: Some(wire::time(review.at)),
        since: Some(wire::time(review.since)),
        revision: review.revision,
        decisions: review.decisions,
        read_to: review.read_to.map(wire::time),
        bindings: review.bindings.iter().map(binding).collect(),
        more: review.more,
    }
}

fn binding(told: &ReviewedBinding) -> v1::ReviewedBinding {
    use v1::reviewed_binding::Verdict;
    let ReviewedBinding { reviewed, applied_at, proposal } = told;
    let usage = &reviewed.usage;
    let (verdict, taken) = match &reviewed.proposal {
        None => (Verdict::Withheld, Vec::new()),
        Some(Proposal::Keep) => (Verdict::Keep, Vec::new()),
        Some(Proposal::Narrow { taken, .. }) => (Verdict::Narrow, taken.clone()),
        Some(Proposal::Remove(Unneeded::NeverUsed)) => (Verdict::RemoveUnused, Vec::new()),
        Some(Proposal::Remove(Unneeded::Ended(_))) => (Verdict::RemoveEnded, Vec::new()),
        Some(Proposal::Undeclare) => (Verdict::Undeclare, Vec::new()),
    };
    let value = |name: &String, value: &String, count: Count| v1::UsedValue {
        parameter: name.clone(),
        value: value.clone(),
        times: count.times,
        last_used_at: Some(wire::time(count.last)),
    };
    let values = usage.values.iter().flat_map(|(name, used)| {
        used.most_used(MOST_TOLD).into_iter().map(move |(text, count)| value(name, text, count))
    });
    let too_many = |count: &Counted<SpiffeId>| count.more || count.len() > MOST_TOLD;
    v1::ReviewedBinding {
        bound: Some(bound(reviewed)),
        applied_at: applied_at.map(wire::time),
        requested: usage.requested,
        denied: usage.denied.clone().into_iter().collect(),
        used: usage.used,
        handed_on: usage.handed_on,
        declared: usage.declared,
        last_used_at: usage.last_used.map(wire::time),
        in_root_tasks: usage.in_roots,
        under_parents: usage.under_parents,
        identities: used_by(&usage.identities),
        values: values.collect(),
        handed_to: used_by(&usage.handed_to),
        more: too_many(&usage.identities)
            || too_many(&usage.handed_to)
            || usage.values.values().any(|used| used.more || used.len() > MOST_TOLD),
        never_used: reviewed.never_used.clone(),
        verdict: verdict.into(),
        taken,
        proposal: proposal.clone().unwrap_or_default(),
    }
}

fn used_by(used: &Counted<SpiffeId>) -> Vec<v1::UsedBy> {
    let one = |(id, count): (&SpiffeId, Count)| v1::UsedBy {
        spiffe_id: id.to_string(),
        times: count.times,
        last_used_at: Some(wire::time(count.last)),
    };
    used.most_used(MOST_TOLD).into_iter().map(one).collect()
}

/// The binding with every parameter of its scope.
fn bound(reviewed: &Reviewed) -> v1::BoundScope {
    let parameters = reviewed.scope.parameters.iter().map(|(name, spec)| {
        let (one_of, constraint) = match reviewed.binding.parameters.get(name) {
            Some(AllowedValues::List(values)) => (values.clone(), String::new()),
            Some(AllowedValues::Pattern(pattern)) => (Vec::new(), format!("matches {}", pattern.as_str())),
            None => (Vec::new(), spec.to_string()),
        };
        v1::AllowedParameter { name: name.clone(), one_of, constraint }
    });
    v1::BoundScope {
        parameters: parameters.collect(),
        max_ttl: Some(wire::duration(reviewed.scope.ttl.max)),
        approval: reviewed.scope.approval.is_some(),
        ..of_binding(&reviewed.binding)
    }
}
