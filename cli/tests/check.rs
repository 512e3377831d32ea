//! `dayfly check` against an agent that answers by heart.
#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

mod support;

use support::{Done, World, golden};

fn check(world: &World, args: &[&str]) -> Done {
    let mut all = vec!["check"];
    all.extend(args);
    Done::of(world.dayfly(&all).env("DAYFLY_TASK_ID", "01JZX0TASK").output().unwrap())
}

#[test]
fn an_answer_is_shown_with_its_scope_and_its_end_and_a_receipt_only_for_a_guard() {
    let world = World::new();
    let plain = check(&world, &["load-model", "models/llama"]);
    assert_eq!((plain.code, plain.err.as_str()), (Some(0), ""));
    golden("check.txt", &plain.out);
    let guard = "spiffe://prod.example/guard/models";
    let args = ["load-model", "models/llama@sha256:00", "--audience", guard, "-o", "json"];
    let with_receipt = check(&world, &args);
    assert_eq!(with_receipt.code, Some(0), "{with_receipt:?}");
    golden("check.json", &with_receipt.out);

    let [first, second] = &world.agent.authorized()[..] else { panic!("two were asked") };
    assert_eq!((first.task_id.as_str(), first.action.as_str()), ("01JZX0TASK", "load-model"));
    assert_eq!((first.artifact.as_ref().unwrap().digest.as_str(), first.receipt_audience.as_str()), ("", ""));
    let artifact = second.artifact.as_ref().unwrap();
    assert_eq!((artifact.name.as_str(), artifact.digest.as_str()), ("models/llama", "sha256:00"));
    assert_eq!(second.receipt_audience, guard);
    assert!(first.subject_token.is_empty() && first.task_key.is_empty(), "the agent fills them");
}

#[test]
fn a_denial_shows_its_reason_and_what_to_do_and_fails() {
    let world = World::new();
    world.agent.refuse(
        "OUTSIDE_CEILING",
        "task 01JZX0TASK did not declare load-model of models/phi",
        "declare it when the task is opened",
    );
    let done = check(&world, &["load-model", "models/phi"]);
    assert_eq!((done.code, done.out.as_str()), (Some(1), ""));
    assert_eq!(
        done.err,
        "error: task 01JZX0TASK did not declare load-model of models/phi\nnext: declare it when the task is opened\n\
         reason: OUTSIDE_CEILING  request: 01JZX0REQ\n"
    );
}

#[test]
fn outside_a_task_nobody_is_asked() {
    let world = World::new();
    let mut command = world.dayfly(&["check", "load-model", "models/llama"]);
    let done = Done::of(command.env_remove("DAYFLY_TASK_ID").output().unwrap());
    assert_eq!(done.code, Some(2));
    assert!(done.err.contains("DAYFLY_TASK_ID is not set"), "{}", done.err);
    assert_eq!(check(&world, &["load-model", "models/llama@"]).code, Some(2));
    assert!(world.agent.authorized().is_empty());
}
