//! What reach and who-can say is what a decision says, in every world.

use super::worlds::{Book, IDENTITIES, RandomWorld};
use super::*;
use crate::parameter::{ParameterSpec, ParameterType, WholePattern};
use crate::reach::{self, Entry, Standing};
use crate::who_can;

const WORLDS: u64 = 10_000;

/// Half of the worlds have values that cannot be listed.
fn world(seed: u64) -> RandomWorld {
    let mut world = RandomWorld::new(seed);
    if seed.is_multiple_of(2) {
        for scope in &mut world.scopes {
            let pattern = Some(WholePattern::new("[a-c]").expect("a pattern"));
            let open = ParameterSpec { kind: ParameterType::Segment, pattern };
            scope.parameters.values_mut().for_each(|spec| *spec = open.clone());
        }
    }
    world
}

fn standing<'a>(entries: &'a [Entry], binding: &str, ask: &ScopeAsk) -> &'a Standing {
    let entry =
        entries.iter().find(|entry| entry.binding.name == binding).expect("every binding has an entry");
    assert!(entry.covers(ask), "{entry:?} leaves out {ask:?}");
    &entry.outcomes_of(ask).first().expect("what is covered was decided").standing
}

#[test]
fn what_is_allowed_anywhere_is_in_reach() {
    let mut tried = 0;
    for seed in 0..WORLDS {
        let mut world = world(seed);
        let rules = world.rules();
        if let Decision::Allow(grant) = world.decide() {
            let entries = reach::of_identity(&rules, &world.caller.spiffe_id, NOW);
            let standing = standing(&entries, &grant.binding, &world.wish.ask);
            assert!(standing.is_possible(), "world {seed}: {standing:?}");
        }
        // Without policies, which may ask for more than anybody can foresee, it is in reach without an if. An approval
        // is for some values alone, and where values are open another example is taken.
        world.book = Book::default();
        if let Decision::Allow(grant) = world.decide() {
            tried += 1;
            let entries = reach::of_identity(&world.rules(), &world.caller.spiffe_id, NOW);
            match standing(&entries, &grant.binding, &world.wish.ask) {
                Standing::Allowed(_) => {}
                Standing::ApprovalMissing if seed.is_multiple_of(2) => {}
                other => panic!("world {seed}: {other:?}"),
            }
        }
    }
    assert!(tried > WORLDS / 50, "only {tried} worlds allowed anything");
}

#[test]
fn what_is_in_reach_is_allowed_in_the_tree_that_is_named() {
    let mut allowed = [0, 0, 0];
    for seed in 0..WORLDS {
        let world = world(seed);
        let rules = world.rules();
        let who = id(IDENTITIES[usize::try_from(seed).expect("small") % IDENTITIES.len()]);
        for entry in reach::of_identity(&rules, &who, NOW) {
            for outcome in &entry.outcomes {
                assert!(outcome.ways.is_empty() != outcome.standing.is_possible(), "world {seed}");
                for way in &outcome.ways {
                    let wish = Wish { ask: way.ask.clone(), ttl: None, act: None };
                    assert_eq!(way.caller.spiffe_id, who);
                    let decision = decide(&rules, &way.caller, &way.lineage, &wish, NOW);
                    match &outcome.standing {
                        Standing::Allowed(_) => {
                            let depth = way.lineage.len()
                                + usize::from(way.lineage.last().expect("one").opened_by != who);
                            allowed[depth - 1] += 1;
                            assert_eq!(reason(&decision), None, "world {seed}");
                        }
                        Standing::ApprovalMissing => {
                            assert_eq!(reason(&decision), Some(DenyReason::ApprovalMissing), "world {seed}");
                        }
                        Standing::PolicyDenied(_) => {
                            assert_eq!(reason(&decision), Some(DenyReason::PolicyDenied), "world {seed}");
                        }
                        other => panic!("world {seed}: {other:?} has a way"),
                    }
                }
            }
        }
    }
    assert!(
        allowed.iter().all(|count| *count > 100),
        "roots, below parents, in tasks of others: {allowed:?}"
    );
}

#[test]
fn a_task_reaches_what_its_holder_would_be_given() {
    let mut allowed = 0;
    for seed in 0..WORLDS {
        let world = world(seed);
        let rules = world.rules();
        let lines = reach::of_task(&rules, &world.lineage, NOW);
        let own = world.lineage.last().expect("not empty");
        assert_eq!(lines.len(), own.ceiling.lines().len());
        if own.offer.is_some() {
            continue;
        }
        let holder = Caller {
            spiffe_id: own.opened_by.clone(),
            stage: super::worlds::stage_of(&own.opened_by),
            via: world.caller.via.clone(),
            proof_expires_at: NOW + Ttl::minutes(1),
        };
        for line in lines {
            let decision = decide(&rules, &holder, &world.lineage, &line.wish, NOW);
            assert_eq!(shown(&line.decision), shown(&decision), "world {seed}");
            allowed += u32::from(reason(&decision).is_none());
        }
    }
    assert!(allowed > 50, "only {allowed} lines were allowed");
}

#[test]
fn an_offer_reaches_what_it_will_once_it_is_claimed() {
    let rules = rules_of(RULES);
    let mut parent = task(1, "infer/planner", &node(), None);
    parent.stage = Stage::Inference;
    let offer = Some(crate::task::Offer { deadline: NOW + Ttl::minutes(3) });
    let child = Task { offer, node: None, ..task(2, "tool/t", &node(), Some(&parent)) };
    let lines = reach::of_task(&rules, &[parent, child], NOW);
    let told: Vec<String> =
        lines.iter().map(|line| format!("{}: {}", line.wish.ask.scope, shown(&line.decision))).collect();
    assert_eq!(told[0], "data-read: allow by tool-data for 3m", "{told:?}");
    assert_eq!(told[4], "owned-only: DENY SCOPE_NOT_GRANTED", "{told:?}");
}

#[test]
fn who_can_names_the_bindings_that_carry_something_and_those_that_cannot() {
    let rules = rules_of(&format!(
        "{RULES}---
kind: Binding
metadata: {{name: nobody}}
spec: {{identities: [\"spiffe://example.org/infer/**\"], scope: owned-only}}
---
kind: Binding
metadata: {{name: over}}
spec: {{identities: [\"spiffe://example.org/train/*\"], scope: owned-only, until: \"2020-01-01T00:00:00Z\"}}
"
    ));
    let told = |scope: &str, dataset: Option<&str>| -> Vec<String> {
        let chosen = dataset.map(|value| ("dataset".to_owned(), value.to_owned())).into_iter().collect();
        let holders = who_can::of_scope(&rules, rules.scope(scope).expect("a scope"), &chosen, 10, NOW);
        let told = |holder: who_can::Holder| {
            let what = match holder.somebody {
                None => "nobody".to_owned(),
                Some((_, entry)) if entry.outcomes.is_empty() => "hands on".to_owned(),
                Some((who, entry)) => match (&entry.outcomes[0].standing, &entry.outcomes[0].ways[..]) {
                    (Standing::Nowhere(why), _) => format!("{who} nowhere: {why}"),
                    (_, [way, ..]) => match &way.parent {
                        None => format!("{who} in a root task"),
                        Some(parent) => format!("{who} below {}", parent.binding.name),
                    },
                    other => panic!("{other:?}"),
                },
            };
            format!("{}: {what}", holder.binding.name)
        };
        holders.into_iter().map(told).collect()
    };
    assert_eq!(
        told("data-read", None),
        [
            "planner-delegates: hands on",
            "tool-data: spiffe://example.org/tool/any below train-data",
            "train-data: spiffe://example.org/train/any in a root task",
        ]
    );
    assert_eq!(
        told("data-read", Some("corpus-8"))[1],
        "tool-data: spiffe://example.org/tool/any below planner-delegates"
    );
    assert_eq!(
        told("owned-only", None),
        [
            "nobody: nobody",
            "over: spiffe://example.org/train/any nowhere: ended at 2020-01-01T00:00:00.000Z",
            "owned: spiffe://example.org/train/any in a root task",
        ]
    );
}

#[test]
fn a_scope_for_actions_is_in_reach_action_by_action() {
    let rules = rules_of(&format!(
        "{RULES}---
kind: Scope
metadata: {{name: models}}
spec:
  stages: [training]
  parameters: {{model: {{type: segment}}}}
  target: {{artifact: {{actions: [load-model, verify-model], name: \"models/{{model}}\"}}}}
---
kind: Binding
metadata: {{name: train-models}}
spec: {{identities: [\"spiffe://example.org/train/*\"], scope: models, parameters: {{model: [a, b]}}}}
"
    ));
    let entries = reach::of_identity(&rules, &id("train/a"), NOW);
    let entry = entries.iter().find(|entry| entry.scope.name == "models").expect("it is bound");
    let acts: Vec<String> =
        entry.outcomes.iter().filter_map(|one| Some(one.act.as_ref()?.to_string())).collect();
    assert_eq!(
        acts,
        [
            "load-model of models/a",
            "verify-model of models/a",
            "load-model of models/b",
            "verify-model of models/b"
        ]
    );
    assert!(entry.outcomes.iter().all(|outcome| matches!(outcome.standing, Standing::Allowed(_))));
    let model =
        ScopeAsk { scope: "models".into(), parameters: [("model".to_owned(), "a".to_owned())].into() };
    let own = Task { ceiling: Ceiling::new(vec![model]), ..task(1, "train/a", &node(), None) };
    let lines = reach::of_task(&rules, &[own], NOW);
    let told: Vec<String> = lines.iter().map(|line| shown(&line.decision)).collect();
    assert_eq!(told, ["allow by train-models for 5m", "allow by train-models for 5m"]);
}
