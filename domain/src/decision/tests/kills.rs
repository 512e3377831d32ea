//! What is cut off gets nothing, in any world; the rest gets what it got before.

use std::sync::Arc;

use super::worlds::{Dice, IDENTITIES, PATTERNS, RandomWorld, SCOPES};
use super::*;
use crate::approval::Host;
use crate::id::KillId;
use crate::kill::{Kill, Kills, State, Target, Word};

pub(super) fn standing(target: Target) -> Kill {
    Kill {
        id: KillId::new(NOW, 1),
        target,
        reason: "hidden-reason".into(),
        asked: Word { by: "hidden-admin".into(), on: Host::Broker, at: NOW },
        approved: None,
        lifted: None,
        state: State::Standing,
    }
}

/// Everything that is decided, and how.
fn said(decision: &Decision) -> String {
    match decision {
        // The digest tells that kills stand, which is no difference in what is decided.
        Decision::Allow(grant) => format!("{:?}", Grant { rules_digest: String::new(), ..grant.clone() }),
        Decision::Deny(denial) => format!("{denial:?}"),
    }
}

fn random_target(dice: &mut Dice) -> Target {
    match dice.below(7) {
        0 => Target::Identity(id(dice.pick(IDENTITIES))),
        1 => Target::Pattern(dice.pick(PATTERNS).parse().expect("a pattern")),
        2 => Target::TrustDomain(dice.pick(["example.org", "other.org"]).into()),
        3 => Target::Node(node().node().expect("an agent").clone()),
        4 => Target::Scope(dice.pick(SCOPES).into()),
        5 => Target::Provider(dice.pick(["token", "vault"]).into()),
        _ => Target::Everything,
    }
}

/// The rule once more, without an index. Nobody in these worlds is an admin or a node.
fn strikes(target: &Target, world: &RandomWorld) -> bool {
    let holders = || world.lineage.iter().map(|task| &task.opened_by).chain([&world.caller.spiffe_id]);
    let nodes = || world.lineage.iter().filter_map(|task| task.node.as_ref()).chain(world.caller.via.node());
    match target {
        Target::Identity(id) => holders().any(|held| held == id) || nodes().any(|node| node == id),
        Target::Pattern(pattern) => holders().any(|held| pattern.matches(held)),
        Target::TrustDomain(name) => holders().any(|held| held.trust_domain() == name),
        Target::Node(id) => nodes().any(|node| node == id),
        Target::Scope(name) => world.wish.ask.scope == *name,
        Target::Provider(name) => name == "token",
        Target::Everything => true,
    }
}

#[test]
fn what_is_cut_off_is_denied_and_nothing_else_changes() {
    let (mut cut, mut spared) = (0, 0);
    for seed in 0..10_000 {
        let world = RandomWorld::new(seed);
        let target = random_target(&mut Dice::new(seed ^ 0x5eed));
        let before = world.decide();
        let rules = world.rules().with_kills(Arc::new(Kills::new([standing(target.clone())])));
        let after = decide(&rules, &world.caller, &world.lineage, &world.wish, NOW);
        match (&before, strikes(&target, &world)) {
            (Decision::Allow(_), true) => {
                let Decision::Deny(denial) = &after else { panic!("{seed}: {target} let it pass") };
                assert_eq!(denial.reason, DenyReason::CutOff, "{seed}: {target}");
                cut += 1;
            }
            (Decision::Allow(_), false) => {
                assert_eq!(said(&after), said(&before), "{seed}: {target}");
                spared += 1;
            }
            (Decision::Deny(_), _) => assert!(matches!(after, Decision::Deny(_)), "{seed}: {target}"),
        }
        let lifted = Kill { state: State::Lifted, ..standing(target) };
        let rules = world.rules().with_kills(Arc::new(Kills::new([lifted])));
        let lifted = decide(&rules, &world.caller, &world.lineage, &world.wish, NOW);
        assert_eq!(said(&lifted), said(&before), "{seed}");
    }
    assert!(cut > 50 && spared > 50, "{cut} cut off, {spared} spared: the worlds say nothing");
}

#[test]
fn explain_names_the_kill_behind_an_earlier_miss_too() {
    let world = (0..)
        .map(RandomWorld::new)
        .find(|world| matches!(world.decide(), Decision::Allow(_)))
        .expect("some world allows");
    let kill = standing(Target::Scope(world.wish.ask.scope.clone()));
    let rules = world.rules().with_kills(Arc::new(Kills::new([kill])));
    let explained = explain(&rules, &world.caller, &world.lineage, &world.wish, NOW);
    let step = explained.steps.iter().find(|step| step.rule == "kills").expect("a step for kills");
    assert!(!step.matched && step.what.contains("cut off"), "{step:?}");
}
