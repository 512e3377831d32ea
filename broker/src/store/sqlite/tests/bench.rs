//! How fast, printed and not judged: `cargo test -p dayfly-broker store::sqlite::tests::bench -- --nocapture`.
#![allow(clippy::print_stdout, reason = "it prints what it measured")]

use std::sync::Arc;
use std::time::Instant;

use dayfly_domain::audit::Record;
use dayfly_domain::id::LeaseId;
use dayfly_domain::lease::{Lease, LeaseState};
use dayfly_domain::task::EndCause;

use super::*;
use crate::store::contract::World;
use crate::store::contract::world::{NO_LIMITS, T0, at};
use crate::store::{EndWhich, NewLease};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_callers_open_leases_at_once() {
    const CALLERS: u64 = 256;
    const EACH: u64 = 40;
    let sqlite = Arc::new(Sqlite::with(Options::default()).await);
    let mut world = World::new(Borrowed(sqlite.clone()));
    let root = world.open_root("a").await;
    let template = world.active(&root, "a");
    let new = world.new_lease(&template, NO_LIMITS);
    let begun = Instant::now();
    let callers = (0..CALLERS).map(|caller| {
        let (sqlite, new) = (sqlite.clone(), new.clone());
        tokio::spawn(async move {
            let mut slowest = 0;
            for turn in 0..EACH {
                let id = LeaseId::new(T0, 1_000_000 + u128::from(caller * EACH + turn));
                let decision = Record::new(Stream::Decision, "decision.allow", T0).with("lease_id", id);
                let lease = Lease { id, ..new.lease.clone() };
                let new = NewLease { lease, decision, ..new.clone() };
                let asked = Instant::now();
                sqlite.store.open_lease(new, T0).await.unwrap();
                slowest = slowest.max(asked.elapsed().as_millis());
            }
            slowest
        })
    });
    let mut slowest = 0;
    for caller in callers.collect::<Vec<_>>() {
        slowest = slowest.max(caller.await.unwrap());
    }
    let took = begun.elapsed();
    let rate = (CALLERS * EACH) as f64 / took.as_secs_f64();
    println!("open_lease, {CALLERS} callers: {rate:.0}/s, slowest {slowest} ms");
    let count = number_in(sqlite.folder.path(), "SELECT COUNT(*) FROM leases").await;
    assert_eq!(u64::try_from(count).unwrap(), CALLERS * EACH);

    let begun = Instant::now();
    let ended = world.end(EndWhich::Task(root.id), EndCause::AnchorGone, at(1)).await;
    println!("end of {} leases: {} ms", ended.leases.len(), begun.elapsed().as_millis());
    assert_eq!(u64::try_from(ended.leases.len()).unwrap(), CALLERS * EACH);
    let due = world
        .store()
        .claim_revocations("vault", 1, dayfly_domain::time::Ttl::seconds(1), at(1))
        .await
        .unwrap();
    assert!(matches!(due[0].lease.state, LeaseState::Revoking { .. }));
    world.check().await;
}

/// A store that the callers hold too.
struct Borrowed(Arc<Sqlite>);

#[async_trait]
impl Fixture for Borrowed {
    fn store(&self) -> &dyn Store {
        &self.0.store
    }

    async fn reopen(&mut self) {
        unreachable!("the callers hold the store")
    }

    async fn break_records(&self, stream: Stream, broken: bool) {
        self.0.break_records(stream, broken).await;
    }
}
