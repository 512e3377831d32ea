//! Sessions of AWS roles and the documents that deny them. Who gives a place, or plans a
//! document, holds the row of the role's document.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use dayfly_domain::aws_deny::{Blocks, LAST_CALL, Session, Slot};
use dayfly_domain::id::LeaseId;
use sqlx::postgres::{PgPool, PgRow};

use super::PostgresStore;
use super::transaction::Tx;
use super::verb::Verb;
use crate::store::StoreError;
use crate::store::desk::Lane;
use crate::store::failure::{corrupt, failed};
use crate::store::slots::rows::{self as slot_rows, DocumentRow, Hold, signed};
use crate::store::slots::{DocumentWritten, Place, Plan, PlanAsk, SlotAsk, SlotStanding, Slots};

const RESERVE: &str = "find a place for a session";
const PLAN: &str = "plan a deny document";

#[async_trait]
impl Slots for PostgresStore {
    async fn reserve_slot(&self, ask: SlotAsk) -> Result<Place, StoreError> {
        self.desk.post(Reserve { ask }).await
    }

    async fn settle_slot(&self, lease: LeaseId, session: Session) -> Result<(), StoreError> {
        self.desk.post(Settle { lease, session }).await
    }

    async fn release_slot(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.desk.post(Release { lease }).await
    }

    async fn slot(&self, lease: LeaseId) -> Result<Option<SlotStanding>, StoreError> {
        standing(&self.readers, lease).await
    }

    async fn plan_document(&self, ask: PlanAsk) -> Result<Option<Plan>, StoreError> {
        self.desk.post(PlanDocument { ask }).await
    }

    async fn document_written(&self, written: DocumentWritten) -> Result<bool, StoreError> {
        self.desk.post(NoteWritten { written }).await
    }

    async fn document_proven(&self, role: &str, version: u64, evidence: String) -> Result<(), StoreError> {
        self.desk.post(NoteProven { role: role.to_owned(), version, evidence }).await
    }

    async fn slot_roles(&self) -> Result<Vec<String>, StoreError> {
        roles(&self.readers).await
    }
}

/// Finds a place.
struct Reserve {
    ask: SlotAsk,
}

impl Verb for Reserve {
    type Answer = Place;

    fn lane(&self) -> Lane {
        Lane::Grant
    }

    async fn run(&self, tx: &mut Tx) -> Result<Place, StoreError> {
        let tree = self.ask.tree_name();
        for role in &self.ask.roles {
            // Two that count at once would both find the last place.
            document(tx, role).await?;
            if !self.admits(tx, role).await? {
                continue;
            }
            if let Some(slot) = self.blocks(tx, role, &tree).await?.allocate(self.ask.entropy) {
                self.insert(tx, role, slot, &tree).await?;
                return Ok(Place { role: role.clone(), slot });
            }
        }
        Err(StoreError::RolesFull { roles: self.ask.roles.len() })
    }
}

impl Reserve {
    async fn admits(&self, tx: &mut Tx, role: &str) -> Result<bool, StoreError> {
        const COUNT: &str = "
            SELECT COUNT(*) AS sessions, COUNT(*) FILTER (WHERE latest >= $1) AS young
            FROM aws_slots
            WHERE role = $2
              AND gone_at > $3";
        let count = sqlx::query(COUNT).bind(self.ask.settled()).bind(role).bind(self.ask.now.unix_millis());
        let row = tx.row(RESERVE, count).await?.ok_or_else(|| corrupt(RESERVE, "no count"))?;
        self.ask.fits(&row)
    }

    /// A block of the tree that takes one more, if there is one; else which blocks are taken.
    async fn blocks(&self, tx: &mut Tx, role: &str, tree: &str) -> Result<Blocks, StoreError> {
        const OWN: &str = "
            SELECT block
            FROM aws_slots
            WHERE role = $1
              AND tree = $2
            GROUP BY block
            HAVING COUNT(*) < 64
               AND COUNT(*) FILTER (WHERE denied_in IS NULL AND gone_at > $3) > 0
            ORDER BY block
            LIMIT 1";
        const TAKEN_SLOTS: &str = "SELECT slot FROM aws_slots WHERE role = $1 AND block = $2";
        const TAKEN_BLOCKS: &str = "SELECT DISTINCT block FROM aws_slots WHERE role = $1";
        let living = (self.ask.now + LAST_CALL).unix_millis();
        let own = sqlx::query(OWN).bind(role).bind(tree).bind(living);
        if let Some(row) = tx.row(RESERVE, own).await? {
            let block = slot_rows::block(&row)?;
            let taken = sqlx::query(TAKEN_SLOTS).bind(role).bind(block.to_string());
            let taken = tx.rows(RESERVE, taken).await?;
            let taken: BTreeSet<Slot> = taken.iter().map(slot_rows::slot).collect::<Result<_, _>>()?;
            return Ok(Blocks { taken: BTreeSet::new(), own: BTreeMap::from([(block, taken)]) });
        }
        let taken = tx.rows(RESERVE, sqlx::query(TAKEN_BLOCKS).bind(role)).await?;
        let taken = taken.iter().map(slot_rows::block).collect::<Result<_, _>>()?;
        Ok(Blocks { taken, own: BTreeMap::new() })
    }

    async fn insert(&self, tx: &mut Tx, role: &str, slot: Slot, tree: &str) -> Result<(), StoreError> {
        const INSERT: &str = "
            INSERT INTO aws_slots (role, slot, block, lease, tree, revoke_when, earliest, latest, gone_at)
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)";
        let session = self.ask.session(slot);
        let insert = sqlx::query(INSERT)
            .bind(role)
            .bind(slot.to_string())
            .bind(slot.block().to_string())
            .bind(self.ask.lease.to_string())
            .bind(tree)
            .bind(self.ask.revoke_when.to_string())
            .bind(session.earliest)
            .bind(session.latest)
            .bind(session.gone_at.unix_millis());
        tx.write(RESERVE, insert).await.map(drop)
    }
}

/// Notes what the target's answer tells.
struct Settle {
    lease: LeaseId,
    session: Session,
}

impl Verb for Settle {
    type Answer = ();

    fn lane(&self) -> Lane {
        Lane::Grant
    }

    async fn run(&self, tx: &mut Tx) -> Result<(), StoreError> {
        const SETTLE: &str = "
            UPDATE aws_slots
            SET earliest = GREATEST(earliest, $1), latest = LEAST(latest, $2), gone_at = LEAST(gone_at, $3)
            WHERE lease = $4";
        let settle = sqlx::query(SETTLE)
            .bind(self.session.earliest)
            .bind(self.session.latest)
            .bind(self.session.gone_at.unix_millis())
            .bind(self.lease.to_string());
        tx.write("settle a session", settle).await.map(drop)
    }
}

/// Frees a place that nothing can mean.
struct Release {
    lease: LeaseId,
}

impl Verb for Release {
    type Answer = ();

    fn lane(&self) -> Lane {
        Lane::End
    }

    async fn run(&self, tx: &mut Tx) -> Result<(), StoreError> {
        const RELEASE: &str = "DELETE FROM aws_slots WHERE lease = $1 AND denied_in IS NULL";
        tx.write("release a slot", sqlx::query(RELEASE).bind(self.lease.to_string())).await.map(drop)
    }
}

/// Marks what is to be denied, and tells the one that may write it.
struct PlanDocument {
    ask: PlanAsk,
}

impl Verb for PlanDocument {
    type Answer = Option<Plan>;

    fn lane(&self) -> Lane {
        Lane::End
    }

    async fn run(&self, tx: &mut Tx) -> Result<Option<Plan>, StoreError> {
        let document = document(tx, &self.ask.role).await?;
        if document.is_anothers(&self.ask) {
            return Ok(None);
        }
        self.forget(tx, document.unnamed_until(&self.ask)).await?;
        let mut denied = self.wanted(tx).await?;
        let hold = document.hold(&self.ask, &mut denied);
        self.mark(tx, &denied, hold.version).await?;
        self.hold(tx, &hold).await?;
        let sessions = self.sessions(tx).await?;
        document.plan(&hold, &sessions).map(Some)
    }
}

impl PlanDocument {
    async fn forget(&self, tx: &mut Tx, unnamed_until: i64) -> Result<(), StoreError> {
        const FORGET: &str = "
            DELETE FROM aws_slots
            WHERE role = $1
              AND gone_at <= $2
              AND (denied_in IS NULL OR gone_at <= $3)";
        let now = self.ask.now.unix_millis();
        let forget = sqlx::query(FORGET).bind(&self.ask.role).bind(now).bind(unnamed_until);
        tx.write(PLAN, forget).await.map(drop)
    }

    /// Those whose leases are being taken back, and which are worth a deny.
    async fn wanted(&self, tx: &mut Tx) -> Result<Vec<String>, StoreError> {
        const ENDING: &str = "
            SELECT aws_slots.lease, aws_slots.revoke_when, leases.cause, leases.requested_at, leases.bound_at
            FROM aws_slots JOIN leases ON leases.id = aws_slots.lease
            WHERE aws_slots.role = $1
              AND aws_slots.denied_in IS NULL
              AND leases.state = 'revoking'";
        let ending = tx.rows(PLAN, sqlx::query(ENDING).bind(&self.ask.role)).await?;
        let wanted = ending.iter().filter_map(|row| slot_rows::wanted(row).transpose());
        wanted.collect()
    }

    async fn mark(&self, tx: &mut Tx, denied: &[String], version: i64) -> Result<(), StoreError> {
        const MARK: &str = "
            UPDATE aws_slots
            SET denied_in = $1
            WHERE denied_in IS NULL
              AND lease = ANY($2)";
        if denied.is_empty() {
            return Ok(());
        }
        tx.write(PLAN, sqlx::query(MARK).bind(version).bind(denied)).await.map(drop)
    }

    async fn hold(&self, tx: &mut Tx, hold: &Hold) -> Result<(), StoreError> {
        const HOLD: &str = "
            UPDATE aws_documents
            SET owner = $1, fence = $2, held_until = $3, version = $4
            WHERE role = $5";
        let held = sqlx::query(HOLD)
            .bind(&self.ask.owner)
            .bind(hold.fence)
            .bind((self.ask.now + self.ask.hold_for).unix_millis())
            .bind(hold.version)
            .bind(&self.ask.role);
        tx.write(PLAN, held).await.map(drop)
    }

    async fn sessions(&self, tx: &mut Tx) -> Result<Vec<PgRow>, StoreError> {
        const SESSIONS: &str = "
            SELECT slot, tree, earliest, latest, gone_at, denied_in
            FROM aws_slots
            WHERE role = $1
              AND gone_at > $2
            ORDER BY slot";
        let find = sqlx::query(SESSIONS).bind(&self.ask.role).bind(self.ask.now.unix_millis());
        tx.rows(PLAN, find).await
    }
}

/// The document's row, made first if there is none, and locked.
async fn document(tx: &mut Tx, role: &str) -> Result<DocumentRow, StoreError> {
    const MAKE: &str = "
        INSERT INTO aws_documents
            (role, owner, fence, held_until, version, written_version, proven_version, digest, evidence)
        VALUES ($1, '', 0, 0, 0, 0, 0, '', '')
        ON CONFLICT (role) DO NOTHING";
    const READ: &str = "SELECT * FROM aws_documents WHERE role = $1 FOR UPDATE";
    tx.write(PLAN, sqlx::query(MAKE).bind(role)).await?;
    let row = tx.row(PLAN, sqlx::query(READ).bind(role)).await?;
    DocumentRow::read(&row.ok_or_else(|| corrupt(PLAN, "the document's row is gone"))?)
}

/// Notes what the target took.
struct NoteWritten {
    written: DocumentWritten,
}

impl Verb for NoteWritten {
    type Answer = bool;

    fn lane(&self) -> Lane {
        Lane::End
    }

    async fn run(&self, tx: &mut Tx) -> Result<bool, StoreError> {
        const NOTE: &str = "
            UPDATE aws_documents
            SET written_version = GREATEST(written_version, $1), written_of = $2, written_at = $3, digest = $4
            WHERE role = $5
              AND fence = $6";
        let note = sqlx::query(NOTE)
            .bind(signed(self.written.version))
            .bind(self.written.written.of.unix_millis())
            .bind(self.written.written.at.unix_millis())
            .bind(&self.written.digest)
            .bind(&self.written.role)
            .bind(signed(self.written.fence));
        Ok(tx.write("note a deny document", note).await? == 1)
    }
}

/// Notes what a canary showed.
struct NoteProven {
    role: String,
    version: u64,
    evidence: String,
}

impl Verb for NoteProven {
    type Answer = ();

    fn lane(&self) -> Lane {
        Lane::End
    }

    async fn run(&self, tx: &mut Tx) -> Result<(), StoreError> {
        const NOTE: &str = "
            UPDATE aws_documents
            SET proven_version = $1, evidence = $2
            WHERE role = $3
              AND proven_version < $1
              AND written_version >= $1";
        let note = sqlx::query(NOTE).bind(signed(self.version)).bind(&self.evidence).bind(&self.role);
        tx.write("note that a deny document is effective", note).await.map(drop)
    }
}

async fn standing(readers: &PgPool, lease: LeaseId) -> Result<Option<SlotStanding>, StoreError> {
    const STANDING: &str = "
        SELECT aws_slots.role, aws_slots.slot, aws_slots.denied_in,
            COALESCE(aws_documents.written_version, 0) AS written,
            COALESCE(aws_documents.proven_version, 0) AS proven,
            COALESCE(aws_documents.evidence, '') AS evidence
        FROM aws_slots LEFT JOIN aws_documents ON aws_documents.role = aws_slots.role
        WHERE aws_slots.lease = $1";
    let found = sqlx::query(STANDING).bind(lease.to_string()).fetch_optional(readers).await;
    let found = found.map_err(failed("read how a session stands"))?;
    found.as_ref().map(slot_rows::standing).transpose()
}

async fn roles(readers: &PgPool) -> Result<Vec<String>, StoreError> {
    const ROLES: &str = "SELECT role FROM aws_slots UNION SELECT role FROM aws_documents ORDER BY role";
    let rows = sqlx::query(ROLES).fetch_all(readers).await.map_err(failed("list roles"))?;
    rows.iter().map(|row| slot_rows::text(row, "role")).collect()
}
