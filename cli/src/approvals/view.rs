//! A request for approval, as people and programs read it.

use std::collections::BTreeMap;

use dayfly_client::v1;
use serde::Serialize;

use crate::failure::Failure;
use crate::output::{self, BAD, FAINT, GOOD, ODD, paint, printable};
use crate::wire::{self, At, some};

/// The field names are stable.
#[derive(Debug, Serialize)]
pub struct ApprovalView {
    pub approval_id: String,
    pub state: String,
    pub spiffe_id: String,
    pub scope: String,
    pub parameters: BTreeMap<String, String>,
    pub until: Option<At>,
    pub ticket: Option<String>,
    pub reason: String,
    pub digest: String,
    pub requested_at: Option<At>,
    pub requested_by: String,
    pub requested_on: String,
    pub decided_at: Option<At>,
    pub decided_by: Option<String>,
    pub decided_on: Option<String>,
}

impl ApprovalView {
    /// Reads the broker's answer.
    pub fn read(wire: Option<v1::Approval>) -> Result<Self, Failure> {
        let wire = wire.ok_or_else(|| Failure::new("the broker's answer holds no approval"))?;
        let scope = wire.scope.unwrap_or_default();
        Ok(ApprovalView {
            approval_id: wire.approval_id,
            state: wire.state,
            spiffe_id: wire.spiffe_id,
            scope: scope.scope,
            parameters: wire::sorted(scope.parameters),
            until: wire::at(wire.until),
            ticket: some(wire.ticket),
            reason: wire.reason,
            digest: wire.digest,
            requested_at: wire::at(wire.requested_at),
            requested_by: wire.requested_by,
            requested_on: wire.requested_on,
            decided_at: wire::at(wire.decided_at),
            decided_by: some(wire.decided_by),
            decided_on: some(wire.decided_on),
        })
    }

    /// All of it, a line each.
    pub fn facts(&self) -> String {
        let by = |at: Option<At>, who: &str, on: &str| match who.is_empty() {
            true => String::new(),
            false => format!("{} by {who} on {on}", wire::or_dash(at)),
        };
        let decided = by(
            self.decided_at,
            self.decided_by.as_deref().unwrap_or_default(),
            self.decided_on.as_deref().unwrap_or_default(),
        );
        output::facts([
            ("approval", self.approval_id.clone()),
            ("state", self.state.clone()),
            ("identity", self.spiffe_id.clone()),
            ("scope", wire::scope(&self.scope, &self.parameters)),
            ("until", wire::or_dash(self.until)),
            ("ticket", self.ticket.clone().unwrap_or_default()),
            ("reason", self.reason.clone()),
            ("requested", by(self.requested_at, &self.requested_by, &self.requested_on)),
            ("decided", decided),
            ("digest", self.digest.clone()),
        ])
    }

    /// What became of it, in one line.
    pub fn line(&self) -> String {
        let style = match self.state.as_str() {
            "approved" => GOOD,
            "requested" => ODD,
            "refused" | "withdrawn" => BAD,
            _ => FAINT,
        };
        let about = format!(
            "{} for {} until {}",
            wire::scope(&self.scope, &self.parameters),
            self.spiffe_id,
            wire::or_dash(self.until)
        );
        format!(
            "{}  {}  {}",
            printable(&self.approval_id),
            paint(style, &printable(&self.state)),
            printable(&about)
        )
    }
}

/// Rows, newest first.
pub fn table(rows: &[ApprovalView]) -> String {
    let row = |one: &ApprovalView| {
        [
            one.approval_id.clone(),
            one.state.clone(),
            one.spiffe_id.clone(),
            wire::scope(&one.scope, &one.parameters),
            wire::or_dash(one.until),
            one.requested_by.clone(),
            one.ticket.clone().unwrap_or_default(),
            one.reason.clone(),
        ]
    };
    output::table(
        ["APPROVAL", "STATE", "IDENTITY", "SCOPE", "UNTIL", "REQUESTED BY", "TICKET", "REASON"],
        rows.iter().map(row),
    )
}
