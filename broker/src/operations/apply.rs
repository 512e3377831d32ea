//! Applies documents: checked whole, all faults at once, one transaction against a revision.

use std::collections::BTreeMap;
use std::sync::Arc;

use dayfly_domain::approval::ApprovalRequest;
use dayfly_domain::audit::{Record, Stream};
use dayfly_domain::binding::ADMIN_SCOPES;
use dayfly_domain::document::{self, Document, DocumentKey, Fault, Kind};
use dayfly_domain::id::{LeaseId, RequestId};
use dayfly_domain::kill::Kills;
use dayfly_domain::lease::RevokeCause;
use dayfly_domain::pattern::SpiffePattern;
use dayfly_domain::rules::Rules;

use super::admin::Admin;
pub use super::draft::{DocumentChange, Verb};
use super::draft::{Draft, Targets};
use super::{Broker, OperationError};
use crate::policy;
use crate::store::{ApprovalFilter, Change, LeaseFilter, StoreError};

/// What was asked, checked for form.
#[derive(Debug)]
pub struct Apply {
    /// The documents.
    pub yaml: String,
    /// The revision they were written against; none means whatever stands.
    pub expected_revision: Option<u64>,
    /// Only say what would change.
    pub dry_run: bool,
    /// Remove what matches these labels and is not in the input; none means remove nothing.
    pub prune: Option<BTreeMap<String, String>>,
    /// What becomes of live leases that no binding carries any more.
    pub live: Live,
}

/// What becomes of live leases that no binding carries any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Live {
    /// They are not renewed and run to the end of their task.
    Drain,
    /// They are revoked at once.
    Revoke,
}

/// What an apply did, or would do.
#[derive(Debug)]
pub struct Applied {
    /// The revision that stands now.
    pub revision: u64,
    /// Each document of the input, and each that goes.
    pub changes: Vec<DocumentChange>,
    /// Every fault; when there is one nothing was applied.
    pub faults: Vec<Fault>,
    /// Live leases that no binding carries after the change.
    pub uncovered: Vec<LeaseId>,
}

/// Reads → checks → compares → writes → swaps the rules.
pub async fn apply(
    broker: &Arc<Broker>,
    admin: &Admin,
    request: RequestId,
    asked: Apply,
) -> Result<Applied, OperationError> {
    let draft = Draft::read(broker, &asked.yaml, asked.prune.as_ref()).await?;
    let revision = draft.revision;
    if let Some(expected) = asked.expected_revision.filter(|expected| *expected != revision) {
        return Err(StoreError::StaleRevision { expected, actual: revision }.into());
    }
    refuse_what_is_for_root_admins(admin, &draft)?;
    // Checking runs what was written: nobody's Rego runs before it is known that they may apply it.
    let (draft, checked) = draft.check(broker, Targets::Asked).await?;
    let Draft { changes, input, deletes, .. } = draft;
    let rules = match checked {
        Ok(rules) => rules,
        Err(faults) => return Ok(Applied { revision, changes, faults, uncovered: Vec::new() }),
    };
    let uncovered = uncovered(broker, &rules).await?;
    let faults = Vec::new();
    let changed = changes.iter().any(|change| change.verb != Verb::Unchanged);
    if asked.dry_run || !changed {
        return Ok(Applied { revision, changes, faults, uncovered });
    }
    let revision = write(broker, admin, request, revision, &input, deletes, &changes).await?;
    reload(broker).await?;
    if asked.live == Live::Revoke && !uncovered.is_empty() {
        let now = broker.clock.now();
        broker.store.queue_revocations(uncovered.clone(), RevokeCause::Uncovered, now, Some(request)).await?;
        broker.wake.all();
        uncovered.iter().for_each(|lease| broker.notices.lease_revoked(*lease));
    }
    Ok(Applied { revision, changes, faults, uncovered })
}

/// Who is an admin or a node, and what an admin may have itself, only root admins change: else `apply` would be all verbs.
fn refuse_what_is_for_root_admins(admin: &Admin, draft: &Draft) -> Result<(), OperationError> {
    let Admin::Bound(own) = admin else { return Ok(()) };
    let Draft { stored, input, changes, .. } = draft;
    let for_root = |document: &Document| match document.key.kind {
        Kind::Node => true,
        Kind::Stage => matches!(document.key.name.as_str(), "admin" | "node"),
        Kind::Scope | Kind::Policy => false,
        Kind::Binding => {
            let scope = document.spec.get("scope").and_then(|scope| scope.as_str()).unwrap_or_default();
            let identities = document.spec.get("identities").and_then(|list| list.as_array());
            let mut patterns = identities.into_iter().flatten().filter_map(|text| text.as_str());
            let takes_in_own =
                |text: &str| text.parse::<SpiffePattern>().is_ok_and(|pattern| pattern.matches(own));
            ADMIN_SCOPES.contains(&scope) || patterns.any(takes_in_own)
        }
    };
    let touched = changes.iter().filter(|change| change.verb != Verb::Unchanged);
    for change in touched {
        let new = input.iter().map(|(_, document)| document).find(|document| document.key == change.key);
        if stored.get(&change.key).is_some_and(for_root) || new.is_some_and(for_root) {
            let what =
                format!("{} may only be changed by an admin named in the broker's configuration", change.key);
            return Err(OperationError::NotAdmin(what));
        }
    }
    Ok(())
}

/// Loads the stored documents and the approvals that stand beside them, and swaps the rules whole.
pub async fn reload(broker: &Broker) -> Result<(), OperationError> {
    let _alone = broker.reloading.lock().await;
    let (revision, stored) = broker.store.load_documents().await?;
    let live = ApprovalFilter { live_at: Some(broker.clock.now()), limit: 0 };
    let approvals =
        broker.store.approvals(live).await?.iter().filter_map(ApprovalRequest::approval).collect();
    let kills = Arc::new(Kills::new(broker.store.kills(false).await?));
    let documents: Vec<(u32, Document)> = stored.into_iter().map(|row| (0, row.document)).collect();
    let compiled = document::compile(revision, &broker.trust_domains, &documents);
    let loaded = policy::load(&documents, broker.rules.load_full()).await;
    let judged = match (compiled, loaded) {
        (Ok(rules), Ok(policies)) => Ok(policy::judged_by(rules, policies)),
        (compiled, loaded) => {
            Err([compiled.err(), loaded.err()].into_iter().flatten().flatten().collect::<Vec<_>>())
        }
    };
    match judged {
        Ok(rules) => {
            let rules = rules.with_approvals(approvals).with_kills(kills);
            let (digest, scopes) = (rules.digest.clone(), rules.scopes_unlike(&broker.rules.load()));
            if rules.kills().all() != broker.rules.load().kills().all() {
                broker.kills_settle.begin(broker.clock.now() + broker.limits.kill_settles);
            }
            broker.rules.store(Arc::new(rules));
            broker.store.rules_in_force();
            broker.notices.rules_changed(&digest, &scopes);
            Ok(())
        }
        Err(faults) => {
            // Only a change of the configured trust domains, or of what a version understands, leads here.
            for fault in &faults {
                tracing::error!(%fault, "a stored document is no longer valid");
            }
            Err(OperationError::Invalid {
                reason: "STORED_DOCUMENTS_INVALID",
                message: format!(
                    "{} stored documents are no longer valid, the first: {}",
                    faults.len(),
                    faults[0]
                ),
                next: "compare [[trust_domain]] in the configuration with the stored Stage documents, and the log for the rest",
            })
        }
    }
}

async fn write(
    broker: &Broker,
    admin: &Admin,
    request: RequestId,
    revision: u64,
    input: &[(u32, Document)],
    deletes: Vec<DocumentKey>,
    changes: &[DocumentChange],
) -> Result<u64, OperationError> {
    let now = broker.clock.now();
    let touched = |document: &Document| {
        changes.iter().any(|change| change.key == document.key && change.verb != Verb::Unchanged)
    };
    let puts: Vec<Document> = input.iter().map(|(_, d)| d).filter(|d| touched(d)).cloned().collect();
    let named: Vec<String> = changes
        .iter()
        .filter(|change| change.verb != Verb::Unchanged)
        .map(|change| format!("{:?} {}", change.verb, change.key).to_lowercase())
        .collect();
    let digests: BTreeMap<String, String> =
        puts.iter().map(|put| (put.key.to_string(), put.digest())).collect();
    let record = Record::new(Stream::Admin, "admin.apply", now)
        .request(request)
        .with("by", admin.name())
        .with("from_revision", revision)
        .with("changes", named)
        .with("digests", digests);
    let change = Change { expected_revision: revision, puts, deletes, by: admin.name(), at: now };
    Ok(broker.store.apply(change, vec![record]).await?)
}

/// Live leases that no binding of the new rules carries.
async fn uncovered(broker: &Broker, rules: &Rules) -> Result<Vec<LeaseId>, OperationError> {
    let live = broker.store.leases(LeaseFilter { limit: u32::MAX, ..LeaseFilter::default() }).await?;
    let now = broker.clock.now();
    let carried = |lease: &dayfly_domain::lease::Lease| {
        let scope = rules.scope(&lease.scope);
        let stage = rules.stage_of(&lease.spiffe_id);
        scope.zip(stage).is_some_and(|(scope, stage)| {
            scope.stages.contains(&stage)
                && dayfly_domain::parameter::check(&scope.parameters, &lease.parameters).is_ok()
                && rules.bindings_fitting(&lease.scope, &lease.spiffe_id, &lease.parameters).iter().any(
                    |binding| binding.may_use && binding.allows(&lease.parameters) && binding.stands(now),
                )
        })
    };
    let open = live.into_iter().map(|row| row.lease).filter(|lease| {
        matches!(
            lease.state,
            dayfly_domain::lease::LeaseState::Pending { .. }
                | dayfly_domain::lease::LeaseState::Active { .. }
        )
    });
    Ok(open.filter(|lease| !carried(lease)).map(|lease| lease.id).collect())
}
