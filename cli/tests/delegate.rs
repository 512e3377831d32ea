//! `dayfly delegate` and `dayfly run --claim` with the real binary and a fake agent.
#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

mod support;

use support::{Done, World};

const TOOL: &str = "spiffe://example.org/tool/search";

#[test]
fn a_task_is_opened_for_another_with_what_was_written_and_its_id_is_printed() {
    let world = World::new();
    let line = "delegate --to spiffe://example.org/tool/search --claim-within 10s --max-duration 5m \
                --scope a --param k=1 --scope b --label run=42 --intent citations";
    let args: Vec<&str> = line.split_whitespace().collect();
    let done = Done::of(world.dayfly(&args).env("DAYFLY_TASK_ID", "01JZX0TASK").output().unwrap());
    assert_eq!((done.code, &*done.out), (Some(0), "01JZX0OFFER\n"), "{done:?}");
    let asked = world.agent.delegated().remove(0);
    assert_eq!((&*asked.task_id, &*asked.spiffe_id), ("01JZX0TASK", TOOL));
    let lines: Vec<(&str, usize)> =
        asked.ceiling.iter().map(|line| (line.scope.as_str(), line.parameters.len())).collect();
    assert_eq!(lines, [("a", 1), ("b", 0)]);
    assert_eq!((asked.claim_within.unwrap().seconds, asked.max_duration.unwrap().seconds), (10, 300));
    assert_eq!((&*asked.intent, &*asked.labels["run"]), ("citations", "42"));
    assert!(asked.subject_token.is_empty() && asked.task_key.is_empty());

    let args = ["-o", "json", "delegate", "--to", TOOL, "--scope", "a", "--task", "01JZX0TASK"];
    let done = Done::of(world.dayfly(&args).output().unwrap());
    let shown: serde_json::Value = serde_json::from_str(&done.out).unwrap();
    let expected = serde_json::json!({
        "task_id": "01JZX0OFFER",
        "session_id": "01JZX0SESSION",
        "spiffe_id": TOOL,
        "claim_until": "2027-01-15T05:13:20.000Z",
        "deadline": "2027-01-15T08:00:00.000Z",
    });
    assert_eq!(shown, expected);
}

#[test]
fn without_a_task_or_a_scope_nobody_is_asked() {
    let world = World::new();
    let done = Done::of(world.dayfly(&["delegate", "--to", TOOL, "--scope", "a"]).output().unwrap());
    assert_eq!(done.code, Some(2), "{done:?}");
    assert!(done.err.contains("DAYFLY_TASK_ID"), "{}", done.err);
    let done = Done::of(world.dayfly(&["delegate", "--to", TOOL, "--task", "01JZX0TASK"]).output().unwrap());
    assert_eq!(done.code, Some(2), "{done:?}");
    assert!(world.agent.delegated().is_empty());
}

#[test]
fn a_claimed_task_is_led_by_the_program_itself() {
    let world = World::new();
    world.agent.environment(&[("DAYFLY_TASK_ID", "01JZX0OFFER")]);
    let script = "echo $$ $DAYFLY_TASK_ID; exit 7";
    let done = Done::of(world.run(&["--claim", "01JZX0OFFER", "--", "sh", "-c", script]).output().unwrap());
    assert_eq!(done.code, Some(7), "{done:?}");
    let (pid, asked) = world.agent.claimed().remove(0);
    assert_eq!(done.out, format!("{pid} 01JZX0OFFER\n"), "the program runs in the very process that claimed");
    assert_eq!(asked.task_id, "01JZX0OFFER");
    assert!(asked.subject_token.is_empty() && asked.anchor.is_none());
    assert!(world.agent.opened().is_empty());
}

#[test]
fn a_claim_that_is_refused_runs_nothing() {
    let world = World::new();
    world.agent.refuse("TASK_NOT_OPEN", "task 01J is not open to you", "open a task and ask under it");
    let marker = world.path("ran");
    let done = Done::of(
        world.run(&["--claim", "01JZX0OFFER", "--", "touch", marker.to_str().unwrap()]).output().unwrap(),
    );
    assert_eq!(done.code, Some(1));
    assert!(done.err.contains("reason: TASK_NOT_OPEN") && !marker.exists(), "{}", done.err);
}
