//! The kill switch in the store: what is cut off, what that ends, and how far it has come.

use async_trait::async_trait;
use dayfly_domain::approval::Host;
use dayfly_domain::audit::Record;
use dayfly_domain::id::{KillId, LeaseId, RequestId};
use dayfly_domain::kill::{Kill, Live, State, Target, Word};
use dayfly_domain::spiffe::SpiffeId;
use dayfly_domain::time::Timestamp;

use super::failure::corrupt;
use super::rows::{Columns, Fields};
use super::{Ended, StoreError};

/// Most leases, and most open tasks, that one transaction of [`KillStore::end_cut_off`] ends: grants commit in between.
pub const CUT_OFF_AT_ONCE: u32 = 500;

/// What of everything live is cut off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CutOff {
    /// Tasks that these opened, leases they hold.
    Identities(Vec<SpiffeId>),
    /// Tasks that came through this node, and the leases in them.
    Node(SpiffeId),
    /// Leases of a scope. Tasks go on.
    Scope(String),
    /// Leases of a provider. Tasks go on.
    Provider(String),
    /// All of it.
    Everything,
}

impl CutOff {
    /// Whether a task of this holder goes on though one of its leases is taken back.
    pub(super) fn spares(&self, task_holder: &str) -> bool {
        match self {
            CutOff::Identities(ids) => !ids.iter().any(|id| id.as_str() == task_holder),
            CutOff::Scope(_) | CutOff::Provider(_) => true,
            CutOff::Node(_) | CutOff::Everything => false,
        }
    }
}

/// Where some leases stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeaseTally {
    /// Pending or active: not yet asked for.
    pub live: u64,
    /// Asked for, and not yet proven gone.
    pub revoking: u64,
    /// Asked for, and cannot be taken back: they run to their end.
    pub running_out: u64,
    /// Gone, by the target's word.
    pub verified: u64,
    /// Over by time.
    pub ran_out: u64,
    /// Never given out.
    pub never_issued: u64,
}

/// The verbs of the kill switch.
#[async_trait]
pub trait KillStore: Send + Sync {
    /// Writes a kill, proposed or standing, unless `most` are proposed or stand already. It goes on where its record
    /// cannot be written.
    async fn write_kill(&self, kill: Kill, most: u32, record: Record) -> Result<(), StoreError>;

    /// Writes what became of a kill that stood at `from` when it was read ([`StoreError::KillChanged`] else). To make it
    /// stand goes on where its record cannot be written; to lift it does not.
    async fn move_kill(&self, kill: Kill, from: State, record: Record) -> Result<(), StoreError>;

    /// Kills, newest first: all, or those that are proposed or stand.
    async fn kills(&self, lifted_too: bool) -> Result<Vec<Kill>, StoreError>;

    /// One kill.
    async fn kill(&self, id: KillId) -> Result<Option<Kill>, StoreError>;

    /// Open tasks and live leases, counted by holder, node, scope and provider.
    async fn live(&self) -> Result<Vec<Live>, StoreError>;

    /// Asks for the revocation of up to [`CUT_OFF_AT_ONCE`] leases that are cut off; once fewer are left, ends as many open
    /// tasks that are cut off, with all under them. To be called until nothing ends. As [`Store::end`](super::Store::end), it goes on where
    /// records cannot be written.
    async fn end_cut_off(
        &self,
        which: CutOff,
        now: Timestamp,
        request: Option<RequestId>,
    ) -> Result<Ended, StoreError>;

    /// Where these leases stand.
    async fn tally(&self, leases: &[LeaseId]) -> Result<LeaseTally, StoreError>;
}

impl LeaseTally {
    /// Adds leases of one standing: `live`, `revoking`, `running_out`, or how they ended.
    pub(super) fn add(&mut self, standing: &str, count: u64) {
        let place = match standing {
            "verified" => &mut self.verified,
            "ran_out" => &mut self.ran_out,
            "never_issued" => &mut self.never_issued,
            "running_out" => &mut self.running_out,
            "revoking" => &mut self.revoking,
            _ => &mut self.live,
        };
        *place += count;
    }
}

/// A row of `kills`.
pub(super) fn kill(row: &impl Fields) -> Result<Kill, StoreError> {
    let row = Columns(row);
    let word = |at, by, on| -> Result<Option<Word>, StoreError> {
        let Some(at) = row.maybe_time(at)? else { return Ok(None) };
        Ok(Some(Word { by: row.text(by)?, on: row.parsed::<Host>(on)?, at }))
    };
    let state = row.text("state")?;
    let known = State::ALL.into_iter().find(|known| known.as_str() == state);
    let target = Target::read(&row.text("kind")?, &row.text("name")?);
    Ok(Kill {
        id: row.parsed("id")?,
        target: target.map_err(|error| corrupt("kills.name", error))?,
        reason: row.text("reason")?,
        asked: word("asked_at", "asked_by", "asked_on")?
            .ok_or_else(|| corrupt("asked_at", "nobody asked for it"))?,
        approved: word("approved_at", "approved_by", "approved_on")?,
        lifted: word("lifted_at", "lifted_by", "lifted_on")?,
        state: known.ok_or_else(|| corrupt("state", state))?,
    })
}

/// A row that counts what is live, in its column `live`.
pub(super) fn live(row: &impl Fields) -> Result<Live, StoreError> {
    let row = Columns(row);
    Ok(Live {
        spiffe_id: row.parsed("spiffe_id")?,
        node: row.maybe_parsed("node")?,
        scope: row.maybe_text("scope")?,
        provider: row.maybe_text("provider")?,
        count: row.number("live")?.unsigned_abs(),
    })
}
