//! Writes leases that moved from state to state.

use super::transaction::Tx;
use crate::store::moves::Moves;
use crate::store::rows::json;
use crate::store::{Hint, StoreError};

/// Writes where they stand now, and lets the revokers look.
pub(super) async fn save(moves: Moves, tx: &mut Tx) -> Result<(), StoreError> {
    const SAVE: &str = "
        UPDATE leases
        SET state = new.state,
            pending_since = new.pending_since,
            bound_at = new.bound_at,
            handle = new.handle::JSONB,
            requested_at = new.requested_at,
            cause = new.cause::JSONB,
            applied_at = new.applied_at,
            runs_out_at = new.runs_out_at,
            ended_at = new.ended_at,
            outcome = new.outcome,
            evidence = new.evidence,
            urgency = new.urgency,
            next_attempt_at = new.next_attempt_at,
            claimed_until = new.claimed_until,
            claimed_by = CASE WHEN new.claimed_until IS NULL THEN NULL ELSE leases.claimed_by END,
            attempts = new.attempts,
            last_error = new.last_error
        FROM jsonb_to_recordset($1::JSONB) AS new (
            id TEXT, state TEXT, pending_since BIGINT, bound_at BIGINT, handle TEXT, requested_at BIGINT, cause TEXT,
            applied_at BIGINT, runs_out_at BIGINT, ended_at BIGINT, outcome TEXT, evidence TEXT, urgency BIGINT,
            next_attempt_at BIGINT, claimed_until BIGINT, attempts BIGINT, last_error TEXT
        )
        WHERE leases.id = new.id";
    const AT_ONCE: usize = 500;
    if moves.asks_back() {
        tx.hint(Hint::Revocations);
    }
    for rows in moves.rows.chunks(AT_ONCE) {
        tx.write("move leases", sqlx::query(SAVE).bind(storable(json(&rows)))).await?;
    }
    Ok(())
}

/// PostgreSQL stores no NUL: a target's answer that holds one must not keep a lease from its end.
pub(super) fn storable(json: String) -> String {
    if json.contains("\\u0000") { json.replace("\\u0000", "\\ufffd") } else { json }
}
