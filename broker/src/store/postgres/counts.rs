//! How many leases of each identity, node, scope and session are not over. Several brokers count, so the counts stand in
//! the database and are locked while something is admitted by them.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use sqlx::Row;
use sqlx::postgres::PgConnection;

use crate::store::StoreError;
use crate::store::failure::failed;
use crate::store::holders::Holder;

const WHAT: &str = "count leases";

/// Locks the counts of these holders and reads them.
pub(super) async fn lock(
    connection: &mut PgConnection,
    holders: &[Holder],
) -> Result<HashMap<Holder, u32>, StoreError> {
    const MAKE: &str = "
        INSERT INTO live_leases (holder, leases)
        SELECT holder, 0 FROM unnest($1::TEXT[]) AS holder ORDER BY holder
        ON CONFLICT (holder) DO UPDATE SET leases = live_leases.leases
        RETURNING holder, leases";
    if holders.is_empty() {
        return Ok(HashMap::new());
    }
    let distinct: BTreeMap<String, &Holder> = holders.iter().map(|holder| (holder.key(), holder)).collect();
    let keys: Vec<&String> = distinct.keys().collect();
    let rows = sqlx::query(MAKE).bind(keys).fetch_all(connection).await.map_err(failed(WHAT))?;
    let mut counts = HashMap::new();
    for row in rows {
        let key: String = row.try_get(0).map_err(failed(WHAT))?;
        let count: i64 = row.try_get(1).map_err(failed(WHAT))?;
        if let Some(holder) = distinct.get(&key) {
            counts.insert(Holder::clone(holder), u32::try_from(count.max(0)).unwrap_or(u32::MAX));
        }
    }
    Ok(counts)
}

/// Adds to the counts, or takes from them.
pub(super) async fn change(
    connection: &mut PgConnection,
    changed: &BTreeMap<Holder, i64>,
) -> Result<(), StoreError> {
    const CHANGE: &str = "
        INSERT INTO live_leases (holder, leases)
        SELECT holder, by FROM unnest($1::TEXT[], $2::BIGINT[]) AS changed (holder, by) ORDER BY holder
        ON CONFLICT (holder) DO UPDATE SET leases = GREATEST(live_leases.leases + excluded.leases, 0)";
    // Sessions come and go; the others are as many as there are names.
    const FORGET: &str = "DELETE FROM live_leases WHERE holder = ANY($1) AND leases <= 0";
    let changed: BTreeMap<String, (&Holder, i64)> = changed
        .iter()
        .filter(|(_, by)| **by != 0)
        .map(|(holder, by)| (holder.key(), (holder, *by)))
        .collect();
    if changed.is_empty() {
        return Ok(());
    }
    let keys: Vec<&String> = changed.keys().collect();
    let by: Vec<i64> = changed.values().map(|(_, by)| *by).collect();
    let change = sqlx::query(CHANGE).bind(keys).bind(by);
    change.execute(&mut *connection).await.map_err(failed(WHAT))?;
    let fewer = |(key, (holder, by)): (&String, &(&Holder, i64))| {
        (*by < 0 && matches!(holder, Holder::Session(_))).then(|| key.clone())
    };
    let fewer: BTreeSet<String> = changed.iter().filter_map(fewer).collect();
    if !fewer.is_empty() {
        let forget = sqlx::query(FORGET).bind(Vec::from_iter(fewer));
        forget.execute(connection).await.map_err(failed(WHAT))?;
    }
    Ok(())
}
