//! `dayfly review` with the real binary: what is shown, and which files it writes.
#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

mod support;

use dayfly_client::v1::{self, reviewed_binding::Verdict};
use support::admin::at;
use support::{World, golden};

fn reviewed(name: &str, verdict: Verdict) -> v1::ReviewedBinding {
    v1::ReviewedBinding {
        bound: Some(v1::BoundScope {
            scope: "kv-read".into(),
            binding: name.into(),
            identities: vec!["spiffe://prod.example/training/*".into()],
            may_use: true,
            start: "root".into(),
            via: "agent".into(),
            owner: "ann".into(),
            ..v1::BoundScope::default()
        }),
        applied_at: at(-600),
        verdict: verdict.into(),
        ..v1::ReviewedBinding::default()
    }
}

fn review() -> v1::ReviewResponse {
    let used = v1::ReviewedBinding {
        requested: 12,
        denied: [("OUTSIDE_CEILING".to_owned(), 2)].into(),
        used: 10,
        in_root_tasks: 10,
        last_used_at: at(0),
        identities: vec![v1::UsedBy {
            spiffe_id: support::admin::TRAINER.into(),
            times: 10,
            last_used_at: at(0),
        }],
        never_used: vec!["dataset=corpus-8".into()],
        taken: vec!["dataset: corpus-7, corpus-8 becomes corpus-7".into()],
        proposal: "kind: Binding\nmetadata:\n  name: trainers\nspec: {}\n".into(),
        ..reviewed("trainers", Verdict::Narrow)
    };
    let mut soon = reviewed("incident-12", Verdict::Keep);
    let bound = soon.bound.as_mut().unwrap();
    (bound.until, bound.ticket) = (at(86_400), "INC-12".into());
    v1::ReviewResponse {
        at: at(0),
        since: at(-3600),
        revision: 7,
        decisions: 12,
        bindings: vec![
            used,
            reviewed("forgotten", Verdict::RemoveUnused),
            soon,
            reviewed("over\n- x: y", Verdict::RemoveEnded),
        ],
        ..v1::ReviewResponse::default()
    }
}

#[test]
fn proposals_are_new_files_and_never_take_the_place_of_others() {
    let world = World::new();
    world.broker.with(|state| state.review = review());
    golden("review.txt", &world.admin(&["review"]).out);
    golden("review.json", &world.admin(&["review", "-o", "json"]).out);
    let yaml = world.admin(&["review", "-o", "yaml"]).out;
    golden("review.yaml", &yaml);

    let file = world.path("narrower.yaml");
    let propose = |path: &std::path::Path| world.admin(&["review", "--propose", path.to_str().unwrap()]);
    assert_eq!(propose(&file).code, Some(0));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), yaml);
    let (documents, faults) = dayfly_domain::document::parse(&yaml);
    assert!(documents.len() == 1 && faults.is_empty(), "a name cannot end its comment: {yaml}");
    std::fs::write(&file, "mine").unwrap();
    let again = propose(&file);
    assert!(again.code == Some(1) && again.err.contains("next:"), "{again:?}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "mine");

    let folder = world.path("proposals");
    std::fs::create_dir(&folder).unwrap();
    assert_eq!(propose(&folder).code, Some(0));
    let mut names: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|one| one.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["_remove.yaml", "trainers.yaml"]);
}

#[test]
fn a_name_that_is_a_path_writes_nowhere_else() {
    let world = World::new();
    let folder = world.path("proposals");
    std::fs::create_dir(&folder).unwrap();
    let mut strange = review();
    strange.bindings.truncate(1);
    strange.bindings[0].bound.as_mut().unwrap().binding = "../outside".into();
    world.broker.with(|state| state.review = strange);
    let done = world.admin(&["review", "--propose", folder.to_str().unwrap()]);
    assert_eq!(done.code, Some(1), "{done:?}");
    assert!(!world.path("outside.yaml").exists());
}

#[test]
fn where_not_all_was_read_nothing_is_proposed_and_it_says_so() {
    let world = World::new();
    let withheld = v1::ReviewResponse {
        read_to: at(-1800),
        bindings: vec![reviewed("trainers", Verdict::Withheld)],
        ..review()
    };
    world.broker.with(|state| state.review = withheld);
    let file = world.path("narrower.yaml");
    let done = world.admin(&["review", "--propose", file.to_str().unwrap()]);
    assert!(done.out.contains("nothing is proposed") && done.code == Some(0), "{done:?}");
    assert!(!file.exists());
}
