//! Requests for approval, and what was said of them.

use dayfly_domain::approval::{ApprovalRequest, Host, Said, Verdict};
use dayfly_domain::audit::Record;
use dayfly_domain::id::ApprovalId;
use dayfly_domain::scope::ScopeAsk;
use dayfly_domain::time::Timestamp;
use sqlx::Row;
use sqlx::postgres::{PgPool, PgRow};

use super::transaction::Tx;
use super::verb::Verb;
use crate::store::desk::Lane;
use crate::store::failure::{corrupt, failed};
use crate::store::moves::Journal;
use crate::store::{ApprovalFilter, StoreError};

pub(super) struct Request {
    pub(super) asked: ApprovalRequest,
    pub(super) most: u32,
    pub(super) record: Record,
}

impl Verb for Request {
    type Answer = ();

    fn lane(&self) -> Lane {
        Lane::Grant
    }

    async fn run(&self, tx: &mut Tx) -> Result<(), StoreError> {
        const WAITING: &str = "SELECT count(*) FROM approvals WHERE state = 'requested' AND until > $1";
        const WRITE: &str = "
            INSERT INTO approvals (id, identity, scope, parameters, until, ticket, reason, digest,
                                   requested_at, requested_by, requested_on, state)
            VALUES ($1, $2, $3, $4::JSONB, $5, $6, $7, $8, $9, $10, $11, 'requested')";
        let asked = &self.asked;
        let now = asked.requested_at.unix_millis();
        let waiting = tx.row("count requests for approval", sqlx::query(WAITING).bind(now)).await?;
        let waiting: i64 =
            waiting.map_or(Ok(0), |row| row.try_get(0)).map_err(failed("count requests for approval"))?;
        if waiting >= i64::from(self.most) {
            return Err(StoreError::TooManyRequests { limit: self.most });
        }
        let parameters = serde_json::to_string(&asked.ask.parameters).expect("parameters are text");
        let write = sqlx::query(WRITE)
            .bind(asked.id.to_string())
            .bind(asked.identity.to_string())
            .bind(asked.ask.scope.clone())
            .bind(parameters)
            .bind(asked.until.unix_millis())
            .bind(asked.ticket.clone())
            .bind(asked.reason.clone())
            .bind(asked.digest.clone())
            .bind(now)
            .bind(asked.requested_by.to_string())
            .bind(asked.requested_on.to_string());
        tx.write("write a request for approval", write).await?;
        tx.record(&self.record);
        Ok(())
    }
}

pub(super) struct Decide {
    pub(super) id: ApprovalId,
    pub(super) after: Option<Said>,
    pub(super) verdict: Verdict,
    pub(super) record: Record,
}

impl Verb for Decide {
    type Answer = ();

    fn lane(&self) -> Lane {
        match self.verdict.said {
            Said::Approved => Lane::Grant,
            Said::Refused | Said::Withdrawn => Lane::Kill,
        }
    }

    async fn run(&self, tx: &mut Tx) -> Result<(), StoreError> {
        // The state that was read is part of the key: of two that decide at once, one is told.
        const DECIDE: &str = "
            UPDATE approvals
            SET state = $1, decided_at = $2, decided_by = $3, decided_on = $4
            WHERE id = $5 AND state = $6";
        // The rules of every broker are made from the documents and what was said of approvals.
        const SAID: &str = "UPDATE rules SET approvals = approvals + 1";
        let Verdict { said, at, by, on } = &self.verdict;
        let after = self.after.map_or("requested", Said::as_str);
        let decide = sqlx::query(DECIDE)
            .bind(said.as_str())
            .bind(at.unix_millis())
            .bind(by.to_string())
            .bind(on.to_string())
            .bind(self.id.to_string())
            .bind(after);
        if tx.write("decide an approval", decide).await? == 0 {
            return Err(StoreError::DecidedInBetween(self.id));
        }
        tx.write("count a word on an approval", sqlx::query(SAID)).await?;
        tx.applies_approval();
        tx.record(&self.record);
        Ok(())
    }
}

const COLUMNS: &str = "
    SELECT id, identity, scope, parameters::TEXT AS parameters, until, ticket, reason, digest,
           requested_at, requested_by, requested_on, state, decided_at, decided_by, decided_on
    FROM approvals";

pub(super) async fn one(readers: &PgPool, id: ApprovalId) -> Result<Option<ApprovalRequest>, StoreError> {
    let sql = format!("{COLUMNS} WHERE id = $1");
    let row = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(id.to_string()).fetch_optional(readers).await;
    row.map_err(failed("read an approval"))?.as_ref().map(request).transpose()
}

pub(super) async fn list(
    readers: &PgPool,
    filter: &ApprovalFilter,
) -> Result<Vec<ApprovalRequest>, StoreError> {
    let live = match filter.live_at {
        Some(_) => "WHERE state IN ('requested', 'approved') AND until > $1",
        None => "WHERE $1::BIGINT IS NULL",
    };
    let sql = format!("{COLUMNS} {live} ORDER BY requested_at DESC, id DESC LIMIT $2");
    let limit = (filter.limit > 0).then(|| i64::from(filter.limit));
    let query = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(filter.live_at.map(Timestamp::unix_millis));
    let rows = query.bind(limit).fetch_all(readers).await.map_err(failed("read approvals"))?;
    rows.iter().map(request).collect()
}

fn request(row: &PgRow) -> Result<ApprovalRequest, StoreError> {
    const WHAT: &str = "read an approval";
    let text = |name| row.try_get::<String, _>(name).map_err(failed(WHAT));
    let moment = |name| row.try_get(name).map(Timestamp::from_unix_millis).map_err(failed(WHAT));
    let state = text("state")?;
    let verdict = match Said::ALL.into_iter().find(|said| said.as_str() == state) {
        None => None,
        Some(said) => Some(Verdict {
            said,
            at: moment("decided_at")?,
            by: text("decided_by")?.parse().map_err(|error| corrupt(WHAT, error))?,
            on: host(&text("decided_on")?)?,
        }),
    };
    let parameters = serde_json::from_str(&text("parameters")?).map_err(|error| corrupt(WHAT, error))?;
    Ok(ApprovalRequest {
        id: text("id")?.parse().map_err(|error| corrupt(WHAT, error))?,
        identity: text("identity")?.parse().map_err(|error| corrupt(WHAT, error))?,
        ask: ScopeAsk { scope: text("scope")?, parameters },
        until: moment("until")?,
        ticket: text("ticket")?,
        reason: text("reason")?,
        digest: text("digest")?,
        requested_at: moment("requested_at")?,
        requested_by: text("requested_by")?.parse().map_err(|error| corrupt(WHAT, error))?,
        requested_on: host(&text("requested_on")?)?,
        verdict,
    })
}

fn host(text: &str) -> Result<Host, StoreError> {
    text.parse().map_err(|error: std::net::AddrParseError| corrupt("read an approval", error))
}
