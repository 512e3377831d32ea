//! Every exchange that was counted has a row and its records, and no record was changed.

use std::collections::HashSet;

use anyhow::{Context, ensure};
use dayfly_client::CallError;
use dayfly_domain::audit::{Stream, Verifier};
use dayfly_proto::v1;
use serde_json::Value;
use sqlx::Connection as _;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use tokio_stream::StreamExt as _;

use super::ours::Exchanger;
use super::site::Site;

/// Says in a sentence what was found.
///
/// # Errors
/// When the numbers differ, or a chain does not hold.
pub async fn check(site: &Site, callers: &[Exchanger]) -> anyhow::Result<String> {
    let given = callers.iter().flat_map(|caller| &caller.leases);
    let exchanges = given.clone().count();
    let leases: HashSet<&str> = given.map(String::as_str).collect();
    ensure!(leases.len() == exchanges, "{exchanges} exchanges gave {} leases", leases.len());
    let rows = rows(site).await?;
    ensure!(
        rows == leases.iter().map(|&lease| lease.to_owned()).collect(),
        "the rows are not the leases that were given"
    );

    let mut allowed = 0;
    let mut active = 0;
    let mut records = 0;
    for stream in Stream::ALL {
        records += verify(site, stream, |record| match (stream, record["event"].as_str()) {
            (Stream::Decision, Some("decision.allow")) if record["lease_id"].is_string() => allowed += 1,
            (Stream::Lease, Some("lease.active")) => active += 1,
            _ => {}
        })
        .await?;
    }
    ensure!(allowed == exchanges, "{exchanges} exchanges, {allowed} decisions on record");
    ensure!(active == exchanges, "{exchanges} exchanges, {active} leases on record");
    Ok(format!(
        "{exchanges} exchanges = {} rows = {allowed} decisions; {records} audit records, all chains hold.",
        rows.len()
    ))
}

async fn rows(site: &Site) -> anyhow::Result<HashSet<String>> {
    let options = SqliteConnectOptions::new().filename(site.database()).read_only(true);
    let mut database = SqliteConnection::connect_with(&options).await.context("the broker's database")?;
    let ids: Vec<String> = sqlx::query_scalar("SELECT id FROM leases").fetch_all(&mut database).await?;
    database.close().await?;
    Ok(ids.into_iter().collect())
}

/// Walks a chain from its first record, shows each record, and says how many there are.
async fn verify(site: &Site, stream: Stream, mut show: impl FnMut(&Value)) -> anyhow::Result<u64> {
    let request = v1::ReadAuditRequest { stream: stream.as_str().to_owned(), from_seq: 1 };
    let mut records = site.admin().admin().read_audit(request).await.map_err(CallError::from)?.into_inner();
    let mut verifier = Verifier::default();
    while let Some(record) = records.next().await {
        let record = record.map_err(CallError::from)?;
        verifier.take(record.seq, &record.prev_hash, &record.hash, &record.bytes)?;
        show(&serde_json::from_slice(&record.bytes)?);
    }
    Ok(verifier.seq)
}
