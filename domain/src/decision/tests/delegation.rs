//! Who gets what through whom: every chain of holders up to three, against the golden matrix.

use super::*;

const IDENTITIES: [&str; 6] =
    ["infer/orchestrator", "infer/planner", "infer/rogue", "retrieval/r", "tool/t", "train/a"];

const RULES: &str = r#"
kind: Stage
metadata: {name: training}
spec: {patterns: ["spiffe://example.org/train/**"]}
---
kind: Stage
metadata: {name: inference}
spec: {patterns: ["spiffe://example.org/infer/**"]}
---
kind: Stage
metadata: {name: retrieval}
spec: {patterns: ["spiffe://example.org/retrieval/**"]}
---
kind: Stage
metadata: {name: tool}
spec: {patterns: ["spiffe://example.org/tool/**"]}
---
kind: Scope
metadata: {name: search}
spec: {stages: [retrieval, tool], target: {token: {audience: "https://search"}}}
---
kind: Scope
metadata: {name: data}
spec: {stages: [training, tool], target: {token: {audience: "https://data"}}}
---
kind: Binding
metadata: {name: orchestrator-hands-on}
spec:
  identities: ["spiffe://example.org/infer/orchestrator"]
  scope: search
  grants: [delegate]
  delegate: {to: ["spiffe://example.org/infer/planner", "spiffe://example.org/tool/*"], depth: 2}
---
kind: Binding
metadata: {name: planner-hands-on}
spec:
  identities: ["spiffe://example.org/infer/planner"]
  scope: search
  grants: [delegate]
  delegate: {to: ["spiffe://example.org/tool/*"]}
---
kind: Binding
metadata: {name: tool-search}
spec: {identities: ["spiffe://example.org/tool/*"], scope: search}
---
kind: Binding
metadata: {name: retrieval-search}
spec: {identities: ["spiffe://example.org/retrieval/*"], scope: search, start: root}
---
kind: Binding
metadata: {name: train-data}
spec: {identities: ["spiffe://example.org/train/*"], scope: data}
---
kind: Binding
metadata: {name: tool-data}
spec: {identities: ["spiffe://example.org/tool/t"], scope: data}
"#;

fn lineage(holders: &[&str], ceiling: &Ceiling) -> Vec<Task> {
    let mut lineage: Vec<Task> = Vec::new();
    for (number, holder) in holders.iter().enumerate() {
        let next = task(number as u128, holder, &node(), lineage.last());
        lineage.push(Task { ceiling: ceiling.clone(), ..next });
    }
    lineage
}

#[test]
fn every_chain_of_holders_gets_what_the_golden_matrix_says() {
    let rules = rules_of(RULES);
    let asks = [ask("search", None), ask("data", None)];
    let ceiling = Ceiling::new(asks.to_vec());
    let mut chains: Vec<Vec<&str>> = IDENTITIES.iter().map(|id| vec![*id]).collect();
    for from in 0.. {
        let Some(chain) = chains.get(from).filter(|chain| chain.len() < 3).cloned() else { break };
        chains.extend(IDENTITIES.iter().map(|id| [chain.as_slice(), &[*id]].concat()));
    }
    let mut table = String::from("# holders, root first; the last one asks | search | data\n");
    for chain in chains {
        let caller = caller(&rules, chain.last().expect("not empty"), node());
        let lineage = lineage(&chain, &ceiling);
        let said = asks
            .clone()
            .map(|ask| shown(&decide(&rules, &caller, &lineage, &Wish { ask, ttl: None, act: None }, NOW)));
        writeln!(table, "{:<58} | {:<34} | {}", chain.join(" > "), said[0], said[1])
            .expect("writing to a string");
    }
    crate::golden::compare("delegation_matrix.txt", &table);
}

#[test]
fn a_task_is_opened_for_another_only_with_what_may_be_handed_to_it() {
    let rules = rules_of(RULES);
    let search = Ceiling::new(vec![ask("search", None)]);
    let opened = |holders: &[&str], to: &str, ceiling: &Ceiling| {
        let caller = caller(&rules, holders.last().expect("not empty"), node());
        let all = Ceiling::new(vec![ask("search", None), ask("data", None)]);
        let checked = check_delegate(&rules, &caller, &lineage(holders, &all), &id(to), ceiling, NOW);
        checked.map_err(|denial| denial.reason)
    };
    assert_eq!(opened(&["infer/planner"], "tool/t", &search), Ok(()));
    assert_eq!(opened(&["infer/orchestrator", "infer/planner"], "tool/t", &search), Ok(()));
    let not_allowed = Err(DenyReason::DelegationNotAllowed);
    // To whom, how deep, what, and to nobody at all.
    assert_eq!(opened(&["infer/planner"], "retrieval/r", &search), not_allowed);
    assert_eq!(opened(&["infer/orchestrator", "infer/planner", "tool/t"], "tool/u", &search), not_allowed);
    assert_eq!(opened(&["infer/planner"], "tool/t", &Ceiling::new(vec![ask("data", None)])), not_allowed);
    assert_eq!(opened(&["infer/planner"], "nobody", &search), not_allowed);
    let beyond = Ceiling::new(vec![ask("search", Some("corpus-7"))]);
    assert_eq!(opened(&["infer/planner"], "tool/t", &beyond), Err(DenyReason::ParameterInvalid));
}

#[test]
fn only_the_holder_of_a_task_hands_on_from_it() {
    let rules = rules_of(RULES);
    let search = Ceiling::new(vec![ask("search", None)]);
    let above = lineage(&["infer/planner"], &search);
    // Another identity in the planner's cgroup is no part of the chain, so nothing would be asked of it.
    let guest = caller(&rules, "tool/u", node());
    let checked = check_delegate(&rules, &guest, &above, &id("tool/t"), &search, NOW);
    assert_eq!(checked.map_err(|denial| denial.reason), Err(DenyReason::DelegationNotAllowed));
}

#[test]
fn on_behalf_of_another_a_workload_gets_what_the_other_may_hand_to_it() {
    let rules = rules_of(
        &[
            RULES,
            r#"
---
kind: Binding
metadata: {name: tool-search-direct}
spec: {identities: ["spiffe://example.org/tool/*"], scope: search, via: direct}
---
kind: Binding
metadata: {name: retrieval-search-direct}
spec: {identities: ["spiffe://example.org/retrieval/*"], scope: search, via: direct}
"#,
        ]
        .concat(),
    );
    let (search, data) = (Ceiling::new(vec![ask("search", None)]), Ceiling::new(vec![ask("data", None)]));
    let all = Ceiling::new(vec![ask("search", None), ask("data", None)]);
    let checked = |holders: &[&str], by: &str, who: &str, way: Via, ceiling: &Ceiling, declared: &Ceiling| {
        let above = lineage(holders, declared);
        let checked = check_on_behalf(&rules, &caller(&rules, who, way), &id(by), &above, ceiling, NOW);
        checked.map_err(|denial| denial.reason)
    };
    let handed = |holders: &[&str], who: &str| {
        checked(holders, holders.last().expect("not empty"), who, direct(), &search, &all)
    };
    assert_eq!(handed(&["infer/planner"], "tool/t"), Ok(()));
    assert_eq!(handed(&["infer/orchestrator", "infer/planner"], "tool/t"), Ok(()));
    let not_allowed = Err(DenyReason::DelegationNotAllowed);
    // To whom, through whom, how deep, and by whom.
    assert_eq!(handed(&["infer/planner"], "retrieval/r"), not_allowed);
    assert_eq!(handed(&["infer/rogue", "infer/planner"], "tool/t"), not_allowed);
    assert_eq!(handed(&["infer/orchestrator", "infer/planner", "tool/t"], "tool/u"), not_allowed);
    assert_eq!(
        checked(&["infer/planner"], "tool/u", "tool/t", direct(), &search, &all),
        not_allowed,
        "a guest in the planner's task"
    );
    // What: beyond the ceiling above, out of its type, not for this way.
    let of_planner = |ceiling: &Ceiling, declared: &Ceiling| {
        checked(&["infer/planner"], "infer/planner", "tool/t", direct(), ceiling, declared)
    };
    assert_eq!(of_planner(&search, &data), Err(DenyReason::OutsideCeiling));
    let beyond = Ceiling::new(vec![ask("search", Some("corpus-7"))]);
    assert_eq!(of_planner(&beyond, &all), Err(DenyReason::ParameterInvalid));
    assert_eq!(of_planner(&data, &all), Err(DenyReason::ViaNotAllowed));
    assert_eq!(handed(&["infer/planner"], "nobody"), Err(DenyReason::IdentityUnknown));
    // When: all above is open and claimed.
    let of_tree = |change: &dyn Fn(&mut Vec<Task>)| {
        let mut above = lineage(&["infer/orchestrator", "infer/planner"], &all);
        change(&mut above);
        let caller = caller(&rules, "tool/t", direct());
        check_on_behalf(&rules, &caller, &id("infer/planner"), &above, &search, NOW)
            .map_err(|denial| denial.reason)
    };
    assert_eq!(of_tree(&|_| {}), Ok(()));
    let not_open = Err(DenyReason::TaskNotOpen);
    assert_eq!(of_tree(&Vec::clear), not_open);
    assert_eq!(
        of_tree(&|above| above[1].offer = Some(crate::task::Offer { deadline: NOW + Ttl::hours(1) })),
        not_open
    );
    for over in [0, 1] {
        assert_eq!(of_tree(&|above| above[over].state = TaskState::Open { deadline: NOW }), not_open);
    }
}

#[test]
fn a_task_is_claimed_by_whom_it_was_opened_for_while_it_waits() {
    let rules = rules_of(RULES);
    let ceiling = Ceiling::new(vec![ask("search", None)]);
    let claimed = |who: &str, via: Via, change: &dyn Fn(&mut Vec<Task>)| {
        let mut tree = lineage(&["infer/planner", "tool/t"], &ceiling);
        tree[1].offer = Some(crate::task::Offer { deadline: NOW + Ttl::hours(1) });
        tree[1].node = None;
        change(&mut tree);
        check_claim(&rules, &caller(&rules, who, via), &tree, NOW).map_err(|denial| denial.reason)
    };
    assert_eq!(claimed("tool/t", node(), &|_| {}), Ok(()));
    assert_eq!(claimed("tool/t", direct(), &|_| {}), Ok(()));
    assert_eq!(claimed("nobody", node(), &|_| {}), Err(DenyReason::IdentityUnknown));
    let not_open = Err(DenyReason::TaskNotOpen);
    assert_eq!(claimed("tool/u", node(), &|_| {}), not_open);
    assert_eq!(claimed("infer/planner", node(), &|_| {}), not_open);
    assert_eq!(claimed("tool/t", node(), &|tree| tree[1].offer = None), not_open);
    assert_eq!(claimed("tool/t", node(), &Vec::clear), not_open);
    for over in [0, 1] {
        let state = TaskState::Open { deadline: NOW };
        assert_eq!(claimed("tool/t", node(), &|tree| tree[over].state = state), not_open);
    }
}

#[test]
fn nobody_acts_in_an_offer_that_is_not_claimed() {
    let rules = rules_of(RULES);
    let ceiling = Ceiling::new(vec![ask("search", None)]);
    let caller = caller(&rules, "tool/t", node());
    let mut tree = lineage(&["infer/planner", "tool/t"], &ceiling);
    let wish = Wish { ask: ask("search", None), ttl: None, act: None };
    assert_eq!(reason(&decide(&rules, &caller, &tree, &wish, NOW)), None);
    tree[1].offer = Some(crate::task::Offer { deadline: NOW + Ttl::hours(1) });
    assert_eq!(reason(&decide(&rules, &caller, &tree, &wish, NOW)), Some(DenyReason::TaskNotOpen));
}
