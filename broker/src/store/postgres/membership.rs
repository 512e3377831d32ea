//! Whether this broker may still write, and whether it decides by the rules that stand.

use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, Ordering};

use sqlx::Row;
use sqlx::postgres::PgConnection;

use crate::store::StoreError;
use crate::store::failure::failed;

/// Which documents and approvals stand: the revision of the one, the count of words on the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Version {
    pub(super) revision: i64,
    pub(super) approvals: i64,
}

/// This broker's place among those that share the database.
#[derive(Debug)]
pub(super) struct Membership {
    pub(super) writer: String,
    epoch: AtomicI64,
    rules: Mutex<Held>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Held {
    /// What was read last, and is being made ready.
    read: Option<Version>,
    /// What decisions are made by. None after the broker was fenced, until it has read them again.
    in_force: Option<Version>,
}

impl Membership {
    pub(super) fn new(writer: &str, epoch: i64, stands: Version) -> Self {
        let held = Held { read: None, in_force: Some(stands) };
        Self { writer: writer.to_owned(), epoch: AtomicI64::new(epoch), rules: Mutex::new(held) }
    }

    pub(super) fn epoch(&self) -> i64 {
        self.epoch.load(Ordering::SeqCst)
    }

    /// The broker was fenced and is back: what it decided by may have changed meanwhile.
    pub(super) fn rejoin(&self, epoch: i64) {
        *self.held() = Held::default();
        self.epoch.store(epoch, Ordering::SeqCst);
    }

    /// The documents were read, as of this version.
    pub(super) fn read(&self, version: Version) {
        self.held().read = Some(version);
    }

    /// What was read last is what decisions are made by from now on.
    pub(super) fn in_force(&self) {
        let mut held = self.held();
        held.in_force = held.read;
    }

    /// Whether decisions are made by what stands.
    pub(super) fn holds(&self, stands: Version) -> bool {
        self.held().in_force == Some(stands)
    }

    /// This broker changed the rules itself. It reads them anew at once; what was decided before goes on meanwhile.
    pub(super) fn applied(&self, (documents, approvals): (i64, i64)) {
        if let Some(version) = &mut self.held().in_force {
            version.revision += documents;
            version.approvals += approvals;
        }
    }

    /// Within a transaction, at its end: refuses if this broker was fenced, or if something was decided by rules that do
    /// not stand any more. Nobody can fence it between this and the commit.
    pub(super) async fn check(
        &self,
        connection: &mut PgConnection,
        decided: bool,
        applied: (i64, i64),
    ) -> Result<(), StoreError> {
        const CHECK: &str = "
            SELECT brokers.epoch, rules.revision, rules.approvals
            FROM brokers, rules
            WHERE brokers.writer = $1
            FOR SHARE OF brokers";
        const WHAT: &str = "check that this broker may write";
        let row = sqlx::query(CHECK).bind(&self.writer).fetch_one(connection).await.map_err(failed(WHAT))?;
        let number = |column: usize| row.try_get::<i64, _>(column).map_err(failed(WHAT));
        if number(0)? != self.epoch() {
            return Err(StoreError::Fenced { writer: self.writer.clone() });
        }
        let before = Version { revision: number(1)? - applied.0, approvals: number(2)? - applied.1 };
        if decided && !self.holds(before) {
            return Err(StoreError::RulesChanged);
        }
        Ok(())
    }

    fn held(&self) -> std::sync::MutexGuard<'_, Held> {
        self.rules.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
