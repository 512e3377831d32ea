//! Keeps this broker's name: says that it is alive, fences those that fell silent, and notices when it was fenced itself.
//!
//! A broker's name is held by an advisory lock of one session, so that a second process under the name does not start.
//! What makes late writes fail is the epoch beside it, which every transaction checks.

use std::sync::Arc;
use std::time::Duration;

use dayfly_domain::audit::{Record, Stream};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{Connection, Row};
use tokio::sync::{Mutex, mpsc};
use tokio_util::sync::CancellationToken;

use super::audit::Write;
use super::ledger::Ledger;
use super::membership::Membership;
use super::transaction::Tx;
use crate::clock::Clock;
use crate::store::Hint;
use crate::store::desk::Desk;

/// How often a broker says that it is alive.
const BEAT: Duration = Duration::from_secs(1);
/// How long one beat may take.
const BEAT_LIMIT: Duration = Duration::from_secs(5);
/// A broker that was silent for so long is fenced by another.
const SILENT: Duration = Duration::from_secs(10);
/// The first half of the advisory locks' keys: "dayf". The second is the hash of the broker's name.
const LOCKS: i32 = 0x6461_7966;

/// Tries to take the name of a broker for this session.
pub(super) async fn try_lock(connection: &mut PgConnection, writer: &str) -> Result<bool, sqlx::Error> {
    const LOCK: &str = "SELECT pg_try_advisory_lock($1, hashtext($2))";
    sqlx::query(LOCK).bind(LOCKS).bind(writer).fetch_one(connection).await?.try_get(0)
}

/// Begins a new epoch of the name. Whoever wrote under it before is fenced by that.
pub(super) async fn begin_epoch(connection: &mut PgConnection, writer: &str) -> Result<i64, sqlx::Error> {
    const BEGIN: &str = "
        INSERT INTO brokers (writer, epoch, seen_at, state)
        VALUES ($1, 1, (EXTRACT(EPOCH FROM clock_timestamp()) * 1000)::BIGINT, 'live')
        ON CONFLICT (writer) DO UPDATE
        SET epoch = brokers.epoch + 1, seen_at = excluded.seen_at, state = 'live'
        RETURNING epoch";
    let epoch = sqlx::query(BEGIN).bind(writer).fetch_one(&mut *connection).await?.try_get(0)?;
    free_claims(connection, writer).await?;
    Ok(epoch)
}

/// What this name had claimed can be claimed again: nobody works on it any more.
async fn free_claims(connection: &mut PgConnection, writer: &str) -> Result<u64, sqlx::Error> {
    const FREE: &str = "
        UPDATE leases SET claimed_until = NULL, claimed_by = NULL
        WHERE id IN (SELECT id FROM leases WHERE claimed_by = $1 ORDER BY id FOR UPDATE SKIP LOCKED)";
    sqlx::query(FREE).bind(writer).execute(connection).await.map(|done| done.rows_affected())
}

pub(super) struct Guard {
    pub(super) options: PgConnectOptions,
    pub(super) member: Arc<Membership>,
    pub(super) chains: Arc<Mutex<Ledger>>,
    pub(super) desk: Desk<Tx>,
    pub(super) hints: mpsc::Sender<Hint>,
    pub(super) closing: CancellationToken,
    pub(super) clock: Clock,
}

enum Beat {
    Alive,
    /// Another process took the name.
    Replaced,
}

impl Guard {
    /// Runs until the store is closed, or another process took the name.
    pub(super) async fn run(self, connection: PgConnection) {
        let mut session = Some((connection, true));
        loop {
            tokio::select! {
                () = self.closing.cancelled() => break,
                () = tokio::time::sleep(BEAT) => {}
            }
            match tokio::time::timeout(BEAT_LIMIT, self.beat(&mut session)).await {
                Ok(Ok(Beat::Alive)) => {}
                Ok(Ok(Beat::Replaced)) => {
                    tracing::error!(
                        writer = self.member.writer,
                        alarm = "broker_replaced",
                        "another process writes under this broker's name: nothing is written here any more"
                    );
                    return;
                }
                Ok(Err(error)) => {
                    tracing::warn!(%error, "this broker could not say that it is alive");
                    session = None;
                }
                Err(_) => {
                    tracing::warn!("the database did not answer in time");
                    session = None;
                }
            }
        }
        self.leave(session).await;
    }

    async fn beat(&self, session: &mut Option<(PgConnection, bool)>) -> Result<Beat, sqlx::Error> {
        const ALIVE: &str = "
            UPDATE brokers
            SET seen_at = (EXTRACT(EPOCH FROM clock_timestamp()) * 1000)::BIGINT
            WHERE writer = $1 AND epoch = $2 AND state = 'live'";
        let (connection, locked) = match session {
            Some(session) => session,
            None => session.insert((PgConnection::connect_with(&self.options).await?, false)),
        };
        if !*locked {
            *locked = try_lock(connection, &self.member.writer).await?;
        }
        let alive = sqlx::query(ALIVE).bind(&self.member.writer).bind(self.member.epoch());
        if alive.execute(&mut *connection).await?.rows_affected() == 0 {
            if *locked {
                self.rejoin(connection).await?;
            } else if self.is_replaced(connection).await? {
                return Ok(Beat::Replaced);
            } else {
                return Ok(Beat::Alive);
            }
        }
        self.fence_the_silent(connection).await?;
        Ok(Beat::Alive)
    }

    /// Whether a process under the same name is alive, and it is not this one.
    async fn is_replaced(&self, connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
        const STATE: &str = "SELECT epoch, state FROM brokers WHERE writer = $1";
        let row = sqlx::query(STATE).bind(&self.member.writer).fetch_one(connection).await?;
        let (epoch, state): (i64, String) = (row.try_get(0)?, row.try_get(1)?);
        Ok(epoch != self.member.epoch() && state == "live")
    }

    /// Another broker fenced this one: it was taken for dead. Nothing is granted until the rules were read again.
    async fn rejoin(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let epoch = begin_epoch(connection, &self.member.writer).await?;
        self.chains.lock().await.doubt();
        self.member.rejoin(epoch);
        tracing::error!(
            epoch,
            alarm = "broker_fenced",
            "this broker was fenced because it was silent for too long; it begins anew"
        );
        let _ = self.hints.try_send(Hint::Rules);
        let _ = self.hints.try_send(Hint::Ends);
        self.record(Record::new(Stream::Admin, "broker.rejoin", self.clock.now()).with("epoch", epoch));
        Ok(())
    }

    async fn fence_the_silent(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        const FENCE: &str = "
            UPDATE brokers SET epoch = epoch + 1, state = 'fenced'
            WHERE writer IN (
                SELECT writer FROM brokers
                WHERE state = 'live'
                  AND writer <> $1
                  AND seen_at < (EXTRACT(EPOCH FROM clock_timestamp()) * 1000)::BIGINT - $2
                FOR UPDATE SKIP LOCKED
            )
            RETURNING writer, epoch";
        let fence = sqlx::query(FENCE)
            .bind(&self.member.writer)
            .bind(i64::try_from(SILENT.as_millis()).unwrap_or(i64::MAX));
        for row in fence.fetch_all(&mut *connection).await? {
            let (writer, epoch): (String, i64) = (row.try_get(0)?, row.try_get(1)?);
            let freed = free_claims(connection, &writer).await?;
            tracing::error!(
                writer,
                epoch,
                freed,
                alarm = "broker_silent",
                "a broker was silent for too long and is fenced; its revocations are taken over"
            );
            let record = Record::new(Stream::Admin, "broker.fence", self.clock.now()).with("writer", &writer);
            self.record(record.with("epoch", epoch));
            let _ = self.hints.try_send(Hint::Revocations);
        }
        Ok(())
    }

    fn record(&self, record: Record) {
        let (desk, write) = (self.desk.clone(), Write::new(&[record]));
        tokio::spawn(async move {
            if let Err(error) = desk.post(write).await {
                tracing::error!(error = &error as &dyn std::error::Error, "a fence could not be recorded");
            }
        });
    }

    /// Says good-bye, so that nobody waits for this broker.
    async fn leave(&self, session: Option<(PgConnection, bool)>) {
        const LEAVE: &str = "UPDATE brokers SET state = 'stopped' WHERE writer = $1 AND epoch = $2";
        let Some((mut connection, _)) = session else { return };
        let leave = sqlx::query(LEAVE).bind(&self.member.writer).bind(self.member.epoch());
        if let Err(error) = leave.execute(&mut connection).await {
            tracing::warn!(%error, "this broker could not say that it stops");
        }
        if let Err(error) = free_claims(&mut connection, &self.member.writer).await {
            tracing::warn!(%error, "claimed revocations wait until the claims run out");
        }
        // The server notices by itself, too.
        let _ = connection.close().await;
    }
}
