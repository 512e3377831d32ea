//! Signing keys that were taken out stay out.

use dayfly_domain::audit::{Record, Stream};
use dayfly_domain::key::{KeyFacts, Why, Withheld};
use dayfly_domain::time::Timestamp;

use super::World;
use super::world::{T0, at};
use crate::store::WithheldKey;

fn withheld(kid: &str, why: Why, at: Timestamp) -> WithheldKey {
    let withheld = Withheld { at, why };
    let facts =
        KeyFacts { kid: kid.to_owned(), announced_at: T0, first: kid == "first", withheld: Some(withheld) };
    WithheldKey { purpose: "access".to_owned(), facts, withheld }
}

fn record(event: &'static str) -> Record {
    Record::new(Stream::Admin, event, T0)
}

pub(crate) async fn a_key_that_was_taken_out_stays_out(w: &mut World) {
    assert!(w.store().withheld_keys().await.unwrap().is_empty());
    let first = withheld("first", Why::Retired, at(1));
    let second = withheld("second", Why::Compromised, at(2));
    w.store().withhold_key(first.clone(), record("key.retired")).await.unwrap();
    w.store().withhold_key(second.clone(), record("key.compromised")).await.unwrap();
    w.reopen().await;
    assert_eq!(w.store().withheld_keys().await.unwrap(), [first, second.clone()]);

    let worse = withheld("first", Why::Compromised, at(3));
    w.store().withhold_key(worse.clone(), record("key.compromised")).await.unwrap();
    w.store().withhold_key(withheld("second", Why::Retired, at(4)), record("key.retired")).await.unwrap();
    assert_eq!(w.store().withheld_keys().await.unwrap(), [second, worse], "nothing becomes harmless again");
    assert_eq!(w.records(Stream::Admin).await.len(), 4);
}

pub(crate) async fn a_key_is_taken_out_though_it_cannot_be_recorded(w: &mut World) {
    w.lost_records = true;
    w.break_records(Stream::Admin, true).await;
    let lost = withheld("first", Why::Compromised, at(1));
    w.store().withhold_key(lost.clone(), record("key.compromised")).await.unwrap();
    w.break_records(Stream::Admin, false).await;
    assert_eq!(w.store().withheld_keys().await.unwrap(), [lost]);
}
