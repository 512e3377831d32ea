//! What a review proposes allows no more than what it replaces, and all that was recorded, in every world.

use std::sync::Arc;

use super::worlds::{Dice, IDENTITIES, RandomWorld};
use super::*;
use crate::binding::ViaRule;
use crate::review::{Allowed, Proposal, Recorded, Tally, Wanted};

const WORLDS: u64 = 150;
/// Requests in each world that are recorded, and further ones that are only tried.
const RECORDED: u64 = 24;
const TRIED: u64 = 16;

/// Another request in the same world: its rules, somebody else who asks elsewhere.
fn another(world: &RandomWorld, seed: u64) -> RandomWorld {
    let other = RandomWorld::new(seed);
    let mut lineage = other.lineage.clone();
    // A tree's first task is its oldest.
    if let Some(oldest) = lineage.iter().map(|task| task.opened_at).min() {
        lineage[0].opened_at = oldest;
    }
    RandomWorld { scopes: world.scopes.clone(), bindings: world.bindings.clone(), lineage, ..other }
}

fn since(at: Timestamp) -> Option<Ttl> {
    Some(at.until(NOW))
}

/// What the record of an allow says.
fn record(world: &RandomWorld, grant: &Grant) -> Recorded {
    Recorded::Allowed(Allowed {
        at: NOW,
        identity: world.caller.spiffe_id.clone(),
        via: match world.caller.via {
            Via::Agent { .. } => ViaRule::Agent,
            Via::Direct { .. } => ViaRule::Direct,
        },
        ask: world.wish.ask.clone(),
        binding: grant.binding.clone(),
        ttl: grant.ttl,
        chain: grant.chain.clone(),
        age: since(world.lineage.last().expect("not empty").opened_at),
        oldest: since(world.lineage[0].opened_at),
    })
}

/// The bindings with each proposal in place of what it replaces.
fn replaced(
    bindings: &[crate::binding::Binding],
    proposals: &[(String, Proposal)],
) -> Vec<crate::binding::Binding> {
    let proposal = |name: &str| proposals.iter().find(|(of, _)| of == name).map(|(_, proposal)| proposal);
    let new = |one: &crate::binding::Binding| match proposal(&one.name) {
        Some(Proposal::Narrow { binding, .. }) => Some((**binding).clone()),
        Some(Proposal::Remove(_)) => None,
        Some(Proposal::Keep | Proposal::Undeclare) | None => Some(one.clone()),
    };
    bindings.iter().filter_map(new).collect()
}

fn reviewed(world: &RandomWorld, records: &[Recorded]) -> Vec<(String, Proposal)> {
    let mut tally = Tally::new(Arc::new(world.rules()), Wanted::default(), NOW);
    records.iter().for_each(|record| tally.add(record));
    let reviewed = tally.finish(true).into_iter();
    reviewed.map(|one| (one.binding.name.clone(), one.proposal.expect("all was read"))).collect()
}

#[test]
fn what_is_proposed_allows_all_that_was_recorded_and_no_more_than_before() {
    let (mut recorded, mut narrowed, mut fewer) = (0, 0, 0);
    for seed in 0..WORLDS {
        let world = RandomWorld::new(seed);
        let requests = |from: u64, count: u64| {
            (from..from + count).map(|n| another(&world, seed.wrapping_mul(1_000) + n)).collect::<Vec<_>>()
        };
        let done: Vec<(RandomWorld, Grant)> = requests(0, RECORDED)
            .into_iter()
            .filter_map(|one| match one.decide() {
                Decision::Allow(grant) => Some((one, grant)),
                Decision::Deny(_) => None,
            })
            .collect();
        let records: Vec<Recorded> = done.iter().map(|(one, grant)| record(one, grant)).collect();
        recorded += records.len();
        let proposals = reviewed(&world, &records);
        narrowed += proposals.iter().filter(|(_, one)| matches!(one, Proposal::Narrow { .. })).count();
        let narrower = replaced(&world.bindings, &proposals);
        for (one, before) in &done {
            let now = RandomWorld { bindings: narrower.clone(), ..one.clone() };
            match now.decide() {
                Decision::Allow(after) => assert_eq!(after.ttl, before.ttl, "world {seed}"),
                Decision::Deny(denial) => {
                    panic!("world {seed}: {denial:?} of {:?} under {proposals:#?}", one.wish)
                }
            }
        }
        for one in requests(RECORDED, TRIED) {
            let before = one.decide();
            let after = RandomWorld { bindings: narrower.clone(), ..one }.decide();
            match (before, after) {
                (Decision::Allow(before), Decision::Allow(after)) => {
                    assert!(after.ttl <= before.ttl, "world {seed}")
                }
                (Decision::Deny(_), Decision::Allow(grant)) => panic!("world {seed}: {grant:?}"),
                (Decision::Allow(_), Decision::Deny(_)) => fewer += 1,
                (Decision::Deny(_), Decision::Deny(_)) => {}
            }
        }
    }
    assert!(recorded > 25 && narrowed > 20 && fewer > 10, "{recorded} {narrowed} {fewer}");
}

#[test]
fn records_of_other_rules_never_widen_a_proposal() {
    for seed in 0..WORLDS {
        let (world, other) = (RandomWorld::new(seed), RandomWorld::new(!seed));
        let stray = (0..RECORDED).map(|n| another(&other, seed.wrapping_mul(77) + n));
        let stray = stray.filter_map(|one| match one.decide() {
            Decision::Allow(grant) => Some(record(&one, &grant)),
            Decision::Deny(_) => None,
        });
        let proposals = reviewed(&world, &stray.collect::<Vec<_>>());
        let narrower = replaced(&world.bindings, &proposals);
        for n in 0..TRIED {
            let one = another(&world, seed.wrapping_mul(1_000) + n);
            let after = RandomWorld { bindings: narrower.clone(), ..one.clone() }.decide();
            if let (Decision::Deny(_), Decision::Allow(grant)) = (one.decide(), after) {
                panic!("world {seed}: {grant:?}");
            }
        }
    }
}

#[test]
fn a_task_that_was_opened_for_another_can_still_be_opened() {
    let mut offered = 0;
    for seed in 0..WORLDS {
        let world = RandomWorld::new(seed);
        let mut records = Vec::new();
        let mut done = Vec::new();
        for n in 0..RECORDED {
            let mut one = another(&world, seed.wrapping_mul(1_000) + n);
            let dice = &mut Dice::new(seed ^ n);
            one.caller.spiffe_id = one.lineage.last().expect("not empty").opened_by.clone();
            one.caller.stage = super::worlds::stage_of(&one.caller.spiffe_id);
            let to = id(dice.pick(IDENTITIES));
            let ceiling = Ceiling::new(vec![one.wish.ask.clone()]);
            if check_delegate(&one.rules(), &one.caller, &one.lineage, &to, &ceiling, NOW).is_ok() {
                records.push(Recorded::Offered {
                    at: NOW,
                    above: one.lineage.iter().map(|task| task.opened_by.clone()).collect(),
                    to: to.clone(),
                    ceiling: ceiling.lines().to_vec(),
                    oldest: since(one.lineage[0].opened_at),
                });
                done.push((one, to, ceiling));
            }
        }
        offered += done.len();
        let narrower = replaced(&world.bindings, &reviewed(&world, &records));
        for (one, to, ceiling) in done {
            let now = RandomWorld { bindings: narrower.clone(), ..one };
            let checked = check_delegate(&now.rules(), &now.caller, &now.lineage, &to, &ceiling, NOW);
            assert_eq!(checked, Ok(()), "world {seed}");
        }
    }
    assert!(offered > 10, "{offered} were offered");
}
