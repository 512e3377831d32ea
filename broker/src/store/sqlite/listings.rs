//! Lists tasks and leases for people.

use dayfly_domain::id::LeaseId;
use dayfly_domain::task::Task;
use sqlx::Row;
use sqlx::query_builder::QueryBuilder;
use sqlx::sqlite::{Sqlite, SqlitePool, SqliteRow};

use super::rows;
use super::transaction::failed;
use crate::store::{LeaseFilter, LeaseRow, StoreError, TaskFilter};

pub(super) async fn lease(readers: &SqlitePool, id: LeaseId) -> Result<Option<LeaseRow>, StoreError> {
    const ONE: &str = "SELECT * FROM leases WHERE id = $1";
    let row = sqlx::query(ONE).bind(id.to_string()).fetch_optional(readers).await;
    row.map_err(failed("read a lease"))?.map(|row| rows::lease(&row).map(LeaseRow::from)).transpose()
}

pub(super) async fn leases(readers: &SqlitePool, filter: &LeaseFilter) -> Result<Vec<LeaseRow>, StoreError> {
    let mut query = QueryBuilder::<Sqlite>::new("SELECT * FROM leases WHERE TRUE");
    if !filter.include_ended {
        query.push(" AND state <> 'ended'");
    }
    if let Some(task) = filter.task {
        query.push(" AND task = ").push_bind(task.to_string());
    }
    if let Some(session) = filter.session {
        query
            .push(" AND task IN (SELECT id FROM tasks WHERE session = ")
            .push_bind(session.to_string())
            .push(")");
    }
    if let Some(identity) = &filter.spiffe_id {
        query.push(" AND spiffe_id = ").push_bind(identity.to_string());
    }
    if let Some(scope) = &filter.scope {
        query.push(" AND scope = ").push_bind(scope.clone());
    }
    newest_first(&mut query, filter.limit);
    let rows = query.build().fetch_all(readers).await.map_err(failed("list leases"))?;
    rows.iter().map(|row| rows::lease(row).map(LeaseRow::from)).collect()
}

pub(super) async fn tasks(readers: &SqlitePool, filter: &TaskFilter) -> Result<Vec<(Task, u32)>, StoreError> {
    let mut query = QueryBuilder::<Sqlite>::new(
        "SELECT tasks.*, (
            WITH RECURSIVE tree (id) AS (
                SELECT tasks.id
                UNION ALL
                SELECT below.id FROM tasks AS below JOIN tree ON below.parent = tree.id
            )
            SELECT COUNT(*) FROM leases
            WHERE leases.state <> 'ended'
              AND leases.task IN (SELECT id FROM tree)
        ) AS live_leases
        FROM tasks
        WHERE TRUE",
    );
    if !filter.include_ended {
        query.push(" AND state = 'open'");
    }
    if let Some(session) = filter.session {
        query.push(" AND session = ").push_bind(session.to_string());
    }
    if let Some(identity) = &filter.spiffe_id {
        query.push(" AND opened_by = ").push_bind(identity.to_string());
    }
    newest_first(&mut query, filter.limit);
    let rows = query.build().fetch_all(readers).await.map_err(failed("list tasks"))?;
    let with_count =
        |row: &SqliteRow| Ok((rows::task(row)?, row.try_get("live_leases").map_err(failed("list tasks"))?));
    rows.iter().map(with_count).collect()
}

/// Ids begin with the time they were made at.
fn newest_first(query: &mut QueryBuilder<Sqlite>, limit: u32) {
    query.push(" ORDER BY id DESC");
    if limit > 0 {
        query.push(" LIMIT ").push_bind(limit);
    }
}
