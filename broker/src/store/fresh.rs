//! Leases on their way into the database.

use dayfly_domain::lease::Lease;
use dayfly_domain::spiffe::SpiffeId;
use serde::Serialize;

use super::rows::{StateColumns, json};

/// The row of a lease that was just opened. Made by the caller, so that the writer has less to do.
#[derive(Clone, Debug, Serialize)]
pub(super) struct FreshLease {
    pub(super) id: String,
    pub(super) task: String,
    pub(super) session: String,
    pub(super) spiffe_id: String,
    pub(super) node: Option<String>,
    pub(super) scope: String,
    pub(super) parameters: String,
    pub(super) provider: String,
    pub(super) revocability: &'static str,
    pub(super) worst_case_ms: i64,
    pub(super) leaves_behind: Option<String>,
    pub(super) narrowed: Option<String>,
    pub(super) renews: Option<String>,
    pub(super) opened_at: i64,
    pub(super) state: &'static str,
    pub(super) pending_since: Option<i64>,
    pub(super) bound_at: Option<i64>,
    pub(super) handle: Option<String>,
}

impl FreshLease {
    pub(super) fn new(lease: &Lease, node: Option<&SpiffeId>) -> Self {
        let leaves_behind = &lease.promise.leaves_behind;
        let StateColumns { state, pending_since, bound_at, handle, .. } = StateColumns::from(&lease.state);
        Self {
            id: lease.id.to_string(),
            task: lease.task.to_string(),
            session: lease.session.to_string(),
            spiffe_id: lease.spiffe_id.to_string(),
            node: node.map(ToString::to_string),
            scope: lease.scope.clone(),
            parameters: json(&lease.parameters),
            provider: lease.provider.clone(),
            revocability: lease.promise.revocability.as_str(),
            worst_case_ms: i64::try_from(lease.promise.worst_case_after_end.as_millis()).unwrap_or(i64::MAX),
            leaves_behind: (!leaves_behind.is_empty()).then(|| json(leaves_behind)),
            narrowed: lease.narrowed.clone(),
            renews: lease.renews.map(|renewed| renewed.to_string()),
            opened_at: lease.opened_at.unix_millis(),
            state,
            pending_since,
            bound_at,
            handle,
        }
    }
}
