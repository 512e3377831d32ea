//! Histories of keys, long and random, and a few told in words.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const LIFE: Ttl = Ttl::minutes(5);
const T0: Timestamp = Timestamp::from_unix_seconds(1_800_000_000);

fn at(minutes: u64) -> Timestamp {
    T0 + Ttl::minutes(minutes)
}

fn key(kid: &str, announced: u64, first: bool) -> KeyFacts {
    KeyFacts { kid: kid.to_owned(), announced_at: at(announced), first, withheld: None }
}

fn told(keys: &[KeyFacts], minute: u64) -> Vec<&'static str> {
    states(keys, LIFE, at(minute)).iter().map(|state| state.name()).collect()
}

#[test]
fn the_first_key_signs_at_once_and_its_successor_stands_by_until_there_is_another() {
    let mut keys = vec![key("a", 0, true), key("b", 0, false)];
    assert_eq!(told(&keys, 0), ["active", "announced"]);
    assert_eq!(told(&keys, 10_000), ["active", "announced"], "time alone replaces no key");
    keys.push(key("c", 10_000, false));
    assert_eq!(told(&keys, 10_000), ["retiring", "active", "announced"]);
    let states = states(&keys, LIFE, at(10_003));
    assert_eq!(states[0], KeyState::Retiring { until: at(10_006) });
    assert_eq!(states[1], KeyState::Active { since: at(10_000) });
    assert_eq!(states[2], KeyState::Announced { usable_from: at(10_011) });
    assert_eq!(told(&keys, 10_006), ["retired", "active", "announced"]);
}

#[test]
fn a_compromised_key_is_gone_at_once_and_the_one_that_stood_by_signs() {
    let mut keys = vec![key("a", 0, true), key("b", 0, false)];
    keys[0].withheld = Some(Withheld { at: at(60), why: Why::Compromised });
    assert_eq!(told(&keys, 59), ["active", "announced"]);
    assert_eq!(told(&keys, 60), ["compromised", "active"]);
    keys.push(key("c", 60, false));
    assert_eq!(told(&keys, 61), ["compromised", "active", "announced"]);
}

#[test]
fn nothing_signs_while_the_only_key_is_too_new() {
    let mut keys = vec![key("a", 0, true), key("b", 60, false)];
    keys[0].withheld = Some(Withheld { at: at(60), why: Why::Compromised });
    assert_eq!(told(&keys, 70), ["compromised", "announced"]);
    assert_eq!(told(&keys, 71), ["compromised", "active"]);
    assert_eq!(states(&keys, LIFE, at(90))[1], KeyState::Active { since: at(71) });
}

#[test]
fn a_key_that_retired_never_comes_back() {
    let mut keys = vec![key("a", 0, true), key("b", 0, false), key("c", 60, false)];
    keys[1].withheld = Some(Withheld { at: at(65), why: Why::Compromised });
    assert_eq!(told(&keys, 65), ["active", "compromised", "announced"], "it is still published");
    keys[1].withheld = Some(Withheld { at: at(67), why: Why::Compromised });
    assert_eq!(told(&keys, 67), ["retired", "compromised", "announced"]);
    assert_eq!(told(&keys, 71), ["retired", "compromised", "active"]);
}

#[test]
fn a_key_that_was_withdrawn_before_it_signed_changes_nothing_else() {
    let mut keys = vec![key("a", 0, true), key("b", 0, false), key("c", 60, false)];
    assert_eq!(told(&keys, 61), ["retiring", "active", "announced"]);
    keys[2].withheld = Some(Withheld { at: at(62), why: Why::Retired });
    assert_eq!(told(&keys, 62), ["retiring", "active", "retired"]);
}

#[test]
fn the_order_they_are_told_in_does_not_matter() {
    let keys = [key("a", 0, true), key("b", 0, false), key("c", 60, false), key("d", 60, false)];
    let mut reversed = keys.to_vec();
    reversed.reverse();
    for minute in [0, 60, 66, 100] {
        let mut states = told(&reversed, minute);
        states.reverse();
        assert_eq!(states, told(&keys, minute), "{minute}");
    }
}

/// What may happen next.
#[derive(Clone, Debug)]
enum Step {
    Wait {
        seconds: u64,
    },
    Rotate,
    Withdraw,
    /// Without a successor where the broker may make none.
    Compromise {
        which: prop::sample::Index,
        make: bool,
    },
    /// The private half of what is over is destroyed: its facts are gone, but for the row of one that was withheld.
    Destroy,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1_u64..1_500).prop_map(|seconds| Step::Wait { seconds }),
        3 => Just(Step::Rotate),
        1 => Just(Step::Withdraw),
        2 => any::<(prop::sample::Index, bool)>().prop_map(|(which, make)| Step::Compromise { which, make }),
        1 => Just(Step::Destroy),
    ]
}

/// A relying party that sees everything: what is published when, and what signs.
#[derive(Default)]
struct Witness {
    published_since: BTreeMap<String, Timestamp>,
    seen: BTreeSet<String>,
    /// When a token of each key was last signed.
    signed: BTreeMap<String, Timestamp>,
}

impl Witness {
    fn look(&mut self, keys: &[KeyFacts], now: Timestamp) {
        let states = states(keys, LIFE, now);
        let published: BTreeSet<&str> = keys
            .iter()
            .zip(&states)
            .filter(|(_, state)| state.is_published())
            .map(|(key, _)| key.kid.as_str())
            .collect();
        self.published_since.retain(|kid, _| published.contains(kid.as_str()));
        for kid in &published {
            let back = self.seen.contains(*kid) && !self.published_since.contains_key(*kid);
            assert!(!back, "{kid} is back");
            self.seen.insert((*kid).to_owned());
            self.published_since.entry((*kid).to_owned()).or_insert(now);
        }
        let active: Vec<&KeyFacts> =
            keys.iter().zip(&states).filter(|(_, state)| state.is_active()).map(|(key, _)| key).collect();
        let long_enough = |key: &&KeyFacts| {
            let since = self.published_since.get(&key.kid);
            since.is_some_and(|since| key.first || *since + JWKS_MAX_AGE + JWKS_MAX_AGE <= now)
        };
        assert!(active.len() <= 1 && active.iter().all(long_enough), "{active:?} at {now}");
        let could = keys.iter().any(|key| {
            let since = self.published_since.get(&key.kid);
            since.is_some_and(|since| *since + ANNOUNCED_FOR <= now)
        });
        assert!(!could || active.len() == 1, "one could sign and none does, at {now}");
        for key in active {
            self.signed.insert(key.kid.clone(), now);
        }
        for (kid, at) in self.signed.iter().filter(|(_, at)| **at + LIFE > now) {
            let compromised = keys.iter().any(|key| {
                key.kid == *kid && key.withheld.is_some_and(|withheld| withheld.why == Why::Compromised)
            });
            assert!(
                compromised || published.contains(kid.as_str()),
                "a token of {at} by {kid} fails at {now}"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn every_live_token_verifies_and_no_key_signs_that_was_published_too_late(
        steps in prop::collection::vec(step(), 1..50),
    ) {
        let mut keys = vec![key("k0", 0, true), key("k1", 0, false)];
        let (mut now, mut made, mut witness) = (T0, 2, Witness::default());
        let mut make = |keys: &mut Vec<KeyFacts>, now| {
            keys.push(KeyFacts { kid: format!("k{made}"), announced_at: now, first: false, withheld: None });
            made += 1;
        };
        for step in steps {
            // No two acts are in one moment: each is a commit.
            now = now + Ttl::millis(1);
            let states_now = states(&keys, LIFE, now);
            match step {
                Step::Wait { seconds } => {
                    // In strides: a token is signed at each.
                    for _ in 0..seconds / 20 {
                        now = now + Ttl::seconds(20);
                        witness.look(&keys, now);
                    }
                    now = now + Ttl::seconds(seconds % 20);
                }
                Step::Rotate => {
                    // Not while the one that stands by is too new.
                    let ready = states_now.iter().all(|state| match state {
                        KeyState::Announced { usable_from } => *usable_from <= now,
                        _ => true,
                    });
                    if ready {
                        make(&mut keys, now);
                    }
                }
                Step::Withdraw => {
                    let announced = states_now.iter().position(|state| matches!(state, KeyState::Announced { .. }));
                    if let Some(index) = announced {
                        keys[index].withheld = Some(Withheld { at: now, why: Why::Retired });
                        make(&mut keys, now);
                    }
                }
                Step::Compromise { which, make: successor } => {
                    let key = which.get(&keys).kid.clone();
                    let key = keys.iter_mut().find(|one| one.kid == key).expect("it was drawn from them");
                    key.withheld.get_or_insert(Withheld { at: now, why: Why::Compromised });
                    if successor {
                        make(&mut keys, now);
                    }
                }
                Step::Destroy => {
                    let mut over = states_now.iter().map(|state| *state == KeyState::Retired);
                    keys.retain(|key| !over.next().expect("one state each") || key.withheld.is_some());
                }
            }
            witness.look(&keys, now);
        }
    }
}
