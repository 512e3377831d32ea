//! What holds in every world, tried on ten thousand random ones.

use super::worlds::{DenyRule, Dice, RandomWorld, VALUES, binding};
use super::*;
use crate::binding::{AllowedValues, Binding, Start, ViaRule};

const WORLDS: u64 = 10_000;

fn granted(decision: &Decision) -> Option<Ttl> {
    match decision {
        Decision::Allow(grant) => Some(grant.ttl),
        Decision::Deny(_) => None,
    }
}

/// Whether the second gives nothing that the first did not: no allow where there was none, and no longer.
fn no_more(before: &Decision, after: &Decision) -> bool {
    granted(after).is_none_or(|after| granted(before).is_some_and(|before| after <= before))
}

/// The rules once more, as plain as can be: every binding is looked at, nothing is indexed, nothing has an order.
fn by_the_book(world: &RandomWorld) -> bool {
    let RandomWorld { scopes, bindings, caller, lineage, wish, .. } = world;
    let scope = scopes.iter().find(|scope| scope.name == wish.ask.scope).expect("asks name a scope");
    let task = lineage.last().expect("not empty");
    let fits = |one: &Binding, id: &SpiffeId, task: &Task| {
        one.scope == scope.name
            && one.identities.iter().any(|pattern| pattern.matches(id))
            && one.until.is_none_or(|until| NOW < until)
            && NOW < task.opened_at + one.max_task
            && one.parameters.iter().all(|(name, allowed)| match (allowed, wish.ask.parameters.get(name)) {
                (AllowedValues::List(values), Some(value)) => values.contains(value),
                (AllowedValues::Pattern(pattern), Some(value)) => pattern.matches(value),
                (_, None) => false,
            })
    };
    let carries = |one: &Binding| {
        fits(one, &caller.spiffe_id, task)
            && one.may_use
            && (one.via == ViaRule::Direct) == matches!(caller.via, Via::Direct { .. })
            && (one.start == Start::Root || lineage.len() > 1)
    };
    let hands_on = |at: usize| {
        let below = &lineage[at + 1..];
        bindings.iter().any(|one| {
            let to = |delegation: &crate::binding::Delegation| {
                below.len() <= delegation.depth as usize
                    && below.iter().all(|t| delegation.to.iter().any(|p| p.matches(&t.opened_by)))
            };
            let serves = scope.stages.contains(&super::worlds::stage_of(&lineage[at].opened_by));
            fits(one, &lineage[at].opened_by, &lineage[at])
                && (one.start == Start::Root || at > 0)
                && (one.may_use && serves || one.delegate.as_ref().is_some_and(to))
        })
    };
    let open = |task: &Task| matches!(task.state, TaskState::Open { deadline } if NOW < deadline);
    let asked = wish.ttl.unwrap_or(scope.ttl.default);
    NOW < caller.proof_expires_at
        && lineage.iter().all(open)
        && task.offer.is_none()
        && task.node.as_ref() == caller.via.node()
        && (task.node.is_some() || task.opened_by == caller.spiffe_id)
        && scope.stages.contains(&super::worlds::stage_of(&caller.spiffe_id))
        && parameter_fits(scope, &wish.ask)
        && lineage.iter().all(|task| task.ceiling.lines().contains(&wish.ask))
        && scope.anchor.is_none_or(|anchor| anchor == task.anchor.kind)
        && (Ttl::millis(1)..=scope.ttl.max).contains(&asked)
        && bindings.iter().any(carries)
        && (0..lineage.len() - 1).all(hands_on)
        && (scope.approval.is_none() || approved(world, scope))
        && !denied_by_book(world)
}

fn parameter_fits(scope: &Scope, ask: &ScopeAsk) -> bool {
    match ask.parameters.get("p") {
        Some(value) => scope.parameters.contains_key("p") && VALUES.contains(&value.as_str()),
        None => scope.parameters.is_empty(),
    }
}

fn approved(world: &RandomWorld, scope: &Scope) -> bool {
    let (who, ask) = (&world.caller.spiffe_id, &world.wish.ask);
    world.approvals.iter().any(|one| {
        let digest = crate::approval::digest(who, ask, &scope.digest, one.until);
        one.identity == *who && one.ask == *ask && NOW < one.until && one.digest == digest
    })
}

fn denied_by_book(world: &RandomWorld) -> bool {
    let value = world.wish.ask.parameters.get("p");
    world.book.denies.iter().any(|rule: &DenyRule| {
        rule.stage.is_none_or(|stage| stage == world.caller.stage)
            && rule.depth.is_none_or(|depth| depth < world.lineage.len())
            && rule.value.is_none_or(|wanted| value.is_some_and(|value| value == wanted))
    })
}

#[test]
fn a_decision_is_what_every_binding_looked_at_one_by_one_would_say() {
    let mut allowed = 0;
    let mut reasons = std::collections::BTreeMap::<&str, u32>::new();
    for seed in 0..WORLDS {
        let world = RandomWorld::new(seed);
        let decision = world.decide();
        assert_eq!(granted(&decision).is_some(), by_the_book(&world), "world {seed}: {decision:?}");
        match &decision {
            Decision::Allow(grant) => {
                allowed += 1;
                assert!(grant.ttl > Ttl::ZERO, "world {seed}");
            }
            Decision::Deny(denial) => *reasons.entry(denial.reason.as_str()).or_default() += 1,
        }
    }
    // The worlds are worth something only if both answers, and every reason they know, come often.
    assert!(allowed > WORLDS / 50, "{allowed} allowed, {reasons:?}");
    for reason in
        ["SCOPE_NOT_GRANTED", "ANCESTOR_LACKS_GRANT", "APPROVAL_MISSING", "POLICY_DENIED", "OUTSIDE_CEILING"]
    {
        assert!(reasons.get(reason).is_some_and(|count| *count > 20), "{reason}: {reasons:?}");
    }
}

#[test]
fn an_explanation_says_what_the_decision_says() {
    for seed in 0..WORLDS {
        let world = RandomWorld::new(seed);
        let rules = world.rules();
        let decided = decide(&rules, &world.caller, &world.lineage, &world.wish, NOW);
        let explained = explain(&rules, &world.caller, &world.lineage, &world.wish, NOW);
        match (&decided, &explained.decision) {
            (Decision::Allow(a), Decision::Allow(b)) => {
                assert_eq!(
                    (&a.binding, a.ttl, &a.narrowing),
                    (&b.binding, b.ttl, &b.narrowing),
                    "world {seed}"
                );
                let carried = format!("binding {}", a.binding);
                assert!(
                    explained.steps.iter().any(|step| step.matched && step.rule == carried),
                    "world {seed}"
                );
            }
            (Decision::Deny(a), Decision::Deny(b)) => {
                assert_eq!((a.reason, &a.message), (b.reason, &b.message), "world {seed}");
                assert!(explained.steps.iter().any(|step| !step.matched), "world {seed}");
                assert!(!a.trace.is_empty(), "world {seed}");
            }
            (decided, explained) => panic!("world {seed}: {decided:?} against {explained:?}"),
        }
    }
}

#[test]
fn one_more_rule_that_denies_never_allows_more() {
    for seed in 0..WORLDS {
        let world = RandomWorld::new(seed);
        let mut stricter = world.clone();
        let dice = &mut Dice::new(!seed);
        stricter.book.denies.push(DenyRule {
            stage: dice.one_in(2).then_some(world.caller.stage),
            depth: None,
            value: dice.one_in(2).then(|| dice.pick(VALUES)),
        });
        stricter.book.max_ttl = Some(stricter.book.max_ttl.unwrap_or(Ttl::minutes(5)).min(Ttl::minutes(2)));
        assert!(no_more(&world.decide(), &stricter.decide()), "world {seed}");
    }
}

/// Takes something away from one binding. What was there stays or shrinks.
fn narrow(one: &mut Binding, dice: &mut Dice) {
    match dice.below(9) {
        0 if one.identities.len() > 1 => drop(one.identities.pop()),
        1 => one.may_use = false,
        2 => one.delegate = None,
        3 => {
            if let Some(delegation) = &mut one.delegate {
                delegation.depth -= 1;
            }
        }
        4 => one.start = Start::UnderParent,
        5 => one.max_task = Ttl::minutes(15),
        6 => one.until = Some(one.until.map_or(NOW, |until| until.min(NOW + Ttl::minutes(1)))),
        7 => {
            let kept = AllowedValues::List(vec![dice.pick(VALUES).to_owned()]);
            let old = one.parameters.insert("p".into(), kept.clone());
            if let (Some(old), AllowedValues::List(values)) = (old, kept) {
                let both = values.into_iter().filter(|value| old.takes(value)).collect();
                one.parameters.insert("p".into(), AllowedValues::List(both));
            }
        }
        _ => one.scope = "nowhere".into(),
    }
}

#[test]
fn a_narrowed_binding_never_allows_more() {
    for seed in 0..WORLDS {
        let world = RandomWorld::new(seed);
        if world.bindings.is_empty() {
            continue;
        }
        let mut narrower = world.clone();
        let dice = &mut Dice::new(!seed);
        let at = dice.below(narrower.bindings.len());
        narrow(&mut narrower.bindings[at], dice);
        assert!(no_more(&world.decide(), &narrower.decide()), "world {seed}, binding {at}");
    }
}

#[test]
fn a_child_never_gets_what_its_parent_may_neither_use_nor_delegate() {
    let mut tried = 0;
    for seed in 0..WORLDS {
        let mut world = RandomWorld::new(seed);
        if world.lineage.len() < 2 || granted(&world.decide()).is_none() {
            continue;
        }
        let parent = world.lineage[world.lineage.len() - 2].opened_by.clone();
        if parent == world.caller.spiffe_id {
            continue;
        }
        tried += 1;
        // Whoever the parent's bindings are for besides it keeps them; the parent alone loses all.
        for one in &mut world.bindings {
            let holders = super::worlds::IDENTITIES.map(id).into_iter();
            let others = holders.filter(|holder| *holder != parent && one.is_for(holder));
            one.identities =
                others.map(|holder| holder.as_str().parse().expect("an id is a pattern")).collect();
        }
        assert_eq!(granted(&world.decide()), None, "world {seed}");
    }
    assert!(tried > 50, "only {tried} worlds had such a parent");
}

#[test]
fn one_more_binding_never_takes_away() {
    for seed in 0..WORLDS {
        let world = RandomWorld::new(seed);
        let mut wider = world.clone();
        wider.bindings.push(binding(&mut Dice::new(!seed), 99));
        assert!(no_more(&wider.decide(), &world.decide()), "world {seed}");
    }
}
