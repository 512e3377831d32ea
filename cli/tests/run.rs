//! `dayfly run` with the real binary and a fake agent: the program takes the process over.
#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

mod support;

use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use support::{Done, World};

fn spawn(mut command: std::process::Command) -> (Child, BufReader<std::process::ChildStdout>) {
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    (child, out)
}

fn line(out: &mut impl BufRead) -> String {
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    line.trim().to_owned()
}

#[test]
fn the_exit_code_and_the_pid_are_the_programs_own() {
    let world = World::new();
    let (mut child, mut out) = spawn(world.run(&["--", "sh", "-c", "echo $$; exit 7"]));
    let pid: u32 = line(&mut out).parse().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(7));
    assert_eq!(pid, child.id(), "the program runs in the very process that opened the task");
    let opened = world.agent.opened();
    assert_eq!(opened.len(), 1);
    assert_eq!(opened[0].0.unsigned_abs(), pid, "the agent saw this process");
    assert!(world.agent.ended().is_empty(), "its exit ends the task, which is the agent's to see");
}

#[test]
fn signals_reach_the_program() {
    let world = World::new();
    let script = "trap 'exit 42' TERM; echo ready; while :; do sleep 0.05; done";
    let (mut child, mut out) = spawn(world.run(&["--", "sh", "-c", script]));
    assert_eq!(line(&mut out), "ready");
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(42));

    let (mut child, mut out) = spawn(world.run(&["--", "sh", "-c", "echo ready; exec sleep 60"]));
    assert_eq!(line(&mut out), "ready");
    kill_process(Pid::from_child(&child), Signal::KILL).unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9));
}

#[test]
fn the_connection_to_the_agent_does_not_reach_the_program() {
    let world = World::new();
    let (mut child, mut out) = spawn(world.run(&["--", "sh", "-c", "echo ready; read -r line"]));
    assert_eq!(line(&mut out), "ready");
    let open = std::fs::read_dir(format!("/proc/{}/fd", child.id())).unwrap();
    let open: Vec<String> = open
        .filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok())
        .map(|target| target.display().to_string())
        .collect();
    assert!(
        !open.iter().any(|target| target.contains("socket:") || target.contains("eventpoll")),
        "{open:?}"
    );
    kill_process(Pid::from_child(&child), Signal::KILL).unwrap();
    child.wait().unwrap();
}

#[test]
fn the_program_finds_the_agents_variables_and_no_static_key() {
    let world = World::new();
    world.agent.environment(&[
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://127.0.0.1:4100/t"),
        ("VAULT_ADDR", "http://127.0.0.1:4200"),
        ("DAYFLY_TASK_ID", "01JZX0TASK"),
    ]);
    let output = world
        .run(&["--", "env"])
        .envs([
            ("AWS_ACCESS_KEY_ID", "AKIA"),
            ("AWS_REGION", "eu-west-1"),
            ("VAULT_TOKEN", "hvs.old"),
            ("OWN", "kept"),
        ])
        .output()
        .unwrap();
    let done = Done::of(output);
    assert_eq!(done.code, Some(0), "{done:?}");
    let has = |wanted: &str| done.out.lines().any(|line| line == wanted);
    assert!(has("AWS_CONTAINER_CREDENTIALS_FULL_URI=http://127.0.0.1:4100/t"), "{}", done.out);
    assert!(has("VAULT_ADDR=http://127.0.0.1:4200") && has("DAYFLY_TASK_ID=01JZX0TASK"), "{}", done.out);
    assert!(has("AWS_REGION=eu-west-1") && has("OWN=kept"), "{}", done.out);
    assert!(has("AWS_SHARED_CREDENTIALS_FILE=/dev/null"), "{}", done.out);
    assert!(!done.out.contains("AKIA") && !done.out.contains("hvs.old"), "{}", done.out);
}

#[test]
fn the_ceiling_reaches_the_agent_as_written() {
    let world = World::new();
    let args = [
        "--scope",
        "a",
        "--param",
        "k=1",
        "--param",
        "l=2",
        "--scope",
        "b",
        "--param",
        "k=3",
        "--max-duration",
        "1h30m",
        "--intent",
        "nightly",
        "--label",
        "run=42",
        "--",
        "true",
    ];
    assert_eq!(world.run(&args).status().unwrap().code(), Some(0));
    let (_, asked) = world.agent.opened().remove(0);
    let value = |line: usize, key: &str| asked.ceiling[line].parameters.get(key).map(String::as_str);
    assert_eq!(asked.ceiling.iter().map(|line| line.scope.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(
        (value(0, "k"), value(0, "l"), value(1, "k"), value(1, "l")),
        (Some("1"), Some("2"), Some("3"), None)
    );
    assert_eq!(asked.max_duration.unwrap().seconds, 5400);
    assert_eq!((asked.intent.as_str(), asked.labels["run"].as_str()), ("nightly", "42"));
    assert!(asked.subject_token.is_empty() && asked.parent_task_id.is_empty() && asked.anchor.is_none());
}

#[test]
fn a_program_that_cannot_run_ends_its_task() {
    let world = World::new();
    let done = Done::of(world.run(&["--", "/nonexistent/program"]).output().unwrap());
    assert_eq!(done.code, Some(127), "{done:?}");
    assert!(done.err.contains("cannot execute /nonexistent/program"), "{}", done.err);
    assert_eq!(world.agent.ended(), ["01JZX0TASK"]);

    let script = world.path("plain.txt");
    std::fs::write(&script, "no program").unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o644)).unwrap();
    let done = Done::of(world.run(&["--", script.to_str().unwrap()]).output().unwrap());
    assert_eq!(done.code, Some(126), "{done:?}");
    assert_eq!(world.agent.ended().len(), 2);
}

#[test]
fn a_refusal_shows_reason_next_step_and_request_and_nothing_runs() {
    let world = World::new();
    world.agent.refuse(
        "NOT_COVERED",
        "no binding covers s3-train-read",
        "ask the platform team for a binding",
    );
    let marker = world.path("ran");
    let args = ["--scope", "s3-train-read", "--", "touch", marker.to_str().unwrap()];
    let done = Done::of(world.run(&args).output().unwrap());
    assert_eq!(done.code, Some(1));
    assert_eq!(
        done.err,
        "error: no binding covers s3-train-read\nnext: ask the platform team for a binding\n\
         reason: NOT_COVERED  request: 01JZX0REQ\n"
    );
    assert!(done.out.is_empty() && !marker.exists());

    let mut as_json = vec!["-o", "json"];
    as_json.extend(args);
    let done = Done::of(world.run(&as_json).output().unwrap());
    assert_eq!(
        done.err,
        "{\"error\":{\"message\":\"no binding covers s3-train-read\",\"causes\":[],\"next\":\"ask the platform team \
         for a binding\",\"reason\":\"NOT_COVERED\",\"request_id\":\"01JZX0REQ\"},\"exit_code\":1}\n"
    );
}

#[test]
fn two_scopes_for_one_slot_are_a_usage_error() {
    let world = World::new();
    world.agent.refuse("TWO_SCOPES_ONE_SLOT", "a and b are both delivered as VAULT_ADDR", "run two tasks");
    let done = Done::of(world.run(&["--scope", "a", "--scope", "b", "--", "true"]).output().unwrap());
    assert_eq!(done.code, Some(2), "{done:?}");
}

#[test]
fn a_parameter_before_any_scope_is_a_usage_error_and_asks_nobody() {
    let world = World::new();
    let done = Done::of(world.run(&["--param", "k=v", "--scope", "a", "--", "true"]).output().unwrap());
    assert_eq!(done.code, Some(2));
    assert!(done.err.contains("--param k=v stands before any --scope"), "{}", done.err);
    assert!(world.agent.opened().is_empty());
}

#[test]
fn an_agent_that_is_not_there_is_said_to_be_so() {
    let world = World::new();
    let socket = world.path("other.sock");
    let done =
        Done::of(world.run(&["--agent-socket", socket.to_str().unwrap(), "--", "true"]).output().unwrap());
    assert_eq!(done.code, Some(1));
    assert!(
        done.err.contains("nothing answers at") && done.err.contains("next: start dayfly-agent"),
        "{}",
        done.err
    );
}

#[test]
fn verbose_says_until_when_and_shows_no_value() {
    let world = World::new();
    world.agent.environment(&[("VAULT_ADDR", "http://127.0.0.1:4200"), ("VAULT_TOKEN", "placeholder-42")]);
    let (mut child, mut out) = {
        let mut command = world.run(&["-v", "--", "true"]);
        command.stderr(Stdio::piped());
        spawn(command)
    };
    let mut err = String::new();
    child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(err.contains("task 01JZX0TASK is open until 2027-01-15T08:00:00Z at the latest"), "{err}");
    assert!(err.contains("VAULT_TOKEN") && !err.contains("placeholder-42"), "{err}");
}
