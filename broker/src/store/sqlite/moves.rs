//! Writes leases that moved from state to state.

use super::rows::json;
use super::transaction::Tx;
use crate::store::StoreError;
pub(super) use crate::store::moves::Moves;

impl Moves {
    /// Writes where they stand now.
    pub(super) async fn save(self, tx: &mut Tx) -> Result<(), StoreError> {
        const SAVE: &str = "
            UPDATE leases
            SET state = new.value ->> 'state',
                pending_since = new.value ->> 'pending_since',
                bound_at = new.value ->> 'bound_at',
                handle = new.value ->> 'handle',
                requested_at = new.value ->> 'requested_at',
                cause = new.value ->> 'cause',
                applied_at = new.value ->> 'applied_at',
                runs_out_at = new.value ->> 'runs_out_at',
                ended_at = new.value ->> 'ended_at',
                outcome = new.value ->> 'outcome',
                evidence = new.value ->> 'evidence',
                urgency = new.value ->> 'urgency',
                next_attempt_at = new.value ->> 'next_attempt_at',
                claimed_until = new.value ->> 'claimed_until',
                attempts = new.value ->> 'attempts',
                last_error = new.value ->> 'last_error'
            FROM json_each($1) AS new
            WHERE leases.id = new.value ->> 'id'";
        const AT_ONCE: usize = 500;
        for rows in self.rows.chunks(AT_ONCE) {
            tx.write("move leases", sqlx::query(SAVE).bind(json(&rows))).await?;
        }
        Ok(())
    }
}
