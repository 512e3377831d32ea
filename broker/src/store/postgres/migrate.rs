//! Brings the schema up to date and gives the broker's role its rights: the owner's work, never the broker's.

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, Connection};

use super::open::{OpenError, Options};
use crate::store::migrations;

/// What the broker's role and the auditor's may do, as the owner grants it.
const RIGHTS: &str = include_str!("../../../../deploy/postgres/rights.sql");

/// Takes every step that is not taken yet, and grants the rights anew. Safe to repeat, and while brokers run.
///
/// # Errors
/// When the database cannot be reached, is of a later release, or the role is not the owner.
pub async fn migrate(options: &Options) -> Result<(), OpenError> {
    // A step may take longer than what a broker asks.
    let options: PgConnectOptions =
        options.connect_options()?.options([("statement_timeout", "0"), ("lock_timeout", "0")]);
    let mut connection = PgConnection::connect_with(&options).await?;
    migrations::postgres().run_direct(None, &mut connection, false).await.map_err(OpenError::Migrate)?;
    sqlx::raw_sql(AssertSqlSafe(RIGHTS.to_owned())).execute(&mut connection).await?;
    connection.close().await?;
    Ok(())
}
