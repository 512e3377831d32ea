//! The admins' verbs with the real binary and a fake broker: what is printed, what is asked, what the shell is told.
#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

mod support;

use std::process::Stdio;

use dayfly_client::v1::{self, document_change::Verb, revoke_request::Target};
use support::admin::chained;
use support::{Done, World, golden};

fn keep(world: &World, leases: &[&str]) {
    world.broker.with(|state| state.leases.retain(|lease| leases.contains(&lease.lease_id.as_str())));
}

#[test]
fn lists_and_details_read_as_committed() {
    let world = World::new();
    for (name, args) in [
        ("lease_list.txt", &["lease", "list"][..]),
        ("lease_list.json", &["lease", "list", "-o", "json"]),
        ("lease_show.txt", &["lease", "show", "01JZX0L2"]),
        ("task_list.txt", &["task", "list", "--all"]),
        ("task_list.json", &["task", "list", "-o", "json"]),
        ("task_show.txt", &["task", "show", "01JZX0T1"]),
        ("scope_list.txt", &["scope", "list"]),
        ("scope_list.json", &["scope", "list", "-o", "json"]),
        ("scope_list.yaml", &["scope", "list", "-o", "yaml"]),
        ("scope_show.txt", &["scope", "show", "kv-read"]),
        ("scope_show_leaves_behind.txt", &["scope", "show", "s3-train-read"]),
        ("node_list.txt", &["node", "list"]),
        ("node_show.txt", &["node", "show", "spiffe://prod.example/node/n1"]),
        ("brake_show.txt", &["brake", "show"]),
        ("brake_show.json", &["brake", "show", "-o", "json"]),
        ("brake_release.txt", &["brake", "release", "--reason", "burnt down"]),
        ("audit_read.txt", &["audit", "read", "--stream", "decision", "--from", "2"]),
    ] {
        let done = world.admin(args);
        assert_eq!((done.code, done.err.as_str()), (Some(0), ""), "{args:?}");
        golden(name, &done.out);
    }
}

#[test]
fn every_kind_of_document_has_its_noun() {
    let world = World::new();
    for (noun, kind) in [("scope", "Scope"), ("binding", "Binding"), ("stage", "Stage"), ("node", "Node")] {
        let done = world.admin(&[noun, "show", "kv-read", "-o", "yaml"]);
        assert!(done.out.starts_with(&format!("kind: {kind}\n")), "{done:?}");
    }
}

#[test]
fn what_is_not_there_is_said_with_reason_and_next_step() {
    let world = World::new();
    let done = world.admin(&["lease", "show", "01JZX0NONE"]);
    assert_eq!(done.code, Some(1));
    assert_eq!(
        done.err,
        "error: there is no lease 01JZX0NONE\nnext: list what there is\nreason: UNKNOWN  request: 01JZX0REQ\n"
    );
    let done = world.admin(&["task", "list", "-o", "yaml"]);
    assert_eq!(done.code, Some(2), "{done:?}");
}

#[test]
fn filters_reach_the_broker() {
    let world = World::new();
    let args = [
        "lease",
        "list",
        "--task",
        "t",
        "--session",
        "s",
        "--spiffe-id",
        "i",
        "--scope",
        "c",
        "--all",
        "--limit",
        "5",
    ];
    assert_eq!(world.admin(&args).code, Some(0));
    let wanted = v1::ListLeasesRequest {
        task_id: "t".into(),
        session_id: "s".into(),
        spiffe_id: "i".into(),
        scope: "c".into(),
        include_ended: true,
        limit: 5,
    };
    world.broker.with(|state| assert_eq!(state.leases_asked, [wanted]));
}

#[test]
fn a_revocation_tells_what_each_target_said() {
    let world = World::new();
    let done = world.admin(&["revoke", "--task", "01JZX0T1", "--reason", "wrong data", "--wait", "2s"]);
    assert_eq!(done.code, Some(4), "one is still revoking: {done:?}");
    golden("revoke.txt", &done.out);
    world.broker.with(|state| {
        let asked = &state.revoke_asked[0];
        assert_eq!(asked.target, Some(Target::TaskId("01JZX0T1".into())));
        assert_eq!((asked.reason.as_str(), asked.wait_ms), ("wrong data", 2000));
    });

    let done = world.admin(&["revoke", "--session", "01JZX0T1", "-o", "json"]);
    assert_eq!(done.code, Some(4));
    golden("revoke.json", &done.out);

    keep(&world, &["01JZX0L2", "01JZX0L3"]);
    assert_eq!(world.admin(&["revoke", "--spiffe-id", "spiffe://prod.example/x"]).code, Some(3));
    keep(&world, &["01JZX0L2"]);
    let done = world.admin(&["revoke", "--lease", "01JZX0L2"]);
    assert_eq!(done.code, Some(0), "{done:?}");
    assert_eq!(world.admin(&["revoke", "--lease", "a", "--wait", "1h"]).code, Some(2));
}

fn applied() -> v1::ApplyResponse {
    let change = |name: &str, verb: Verb, diff: &str| v1::DocumentChange {
        kind: "Scope".into(),
        name: name.into(),
        verb: verb.into(),
        diff: diff.into(),
    };
    v1::ApplyResponse {
        revision: 8,
        changes: vec![
            change("new", Verb::Create, "@@ -0,0 +1 @@\n+kind: Scope\n"),
            change("kv-read", Verb::Update, "@@ -1,2 +1,2 @@\n kind: Scope\n-ttl: 5m\n+ttl: 1m\n"),
            change("old", Verb::Delete, "@@ -1 +0,0 @@\n-kind: Scope\n"),
            change("same", Verb::Unchanged, ""),
        ],
        faults: Vec::new(),
        uncovered_lease_ids: vec!["01JZX0L1".into()],
    }
}

#[test]
fn an_apply_shows_the_change_and_asks_for_what_was_said() {
    let world = World::new();
    world.broker.with(|state| state.applied = applied());
    let file = world.path("scopes.yaml");
    std::fs::write(&file, "kind: Scope\n").unwrap();
    let file = file.to_str().unwrap();
    let done = world.admin(&["apply", "-f", file, "--dry-run"]);
    assert_eq!(done.code, Some(0), "{done:?}");
    golden("apply_dry_run.txt", &done.out);
    golden("apply.json", &world.admin(&["apply", "-f", file, "-o", "json"]).out);

    let args =
        ["apply", "-f", file, "--prune", "--selector", "team=ml,env=prod", "--live", "revoke", "--yes"];
    let done = world.admin(&[&args[..], &["--expected-revision", "7"]].concat());
    assert_eq!(done.code, Some(0), "{done:?}");
    world.broker.with(|state| {
        let asked = state.apply_asked.last().unwrap();
        assert_eq!((asked.yaml.as_str(), asked.expected_revision), ("kind: Scope\n", 7));
        assert!(asked.prune && !asked.dry_run && asked.live() == v1::LivePolicy::Revoke);
        assert_eq!((asked.selector["team"].as_str(), asked.selector["env"].as_str()), ("ml", "prod"));
    });
}

#[test]
fn documents_as_large_as_the_broker_takes_are_sent() {
    let world = World::new();
    let file = world.path("large.yaml");
    std::fs::write(&file, "#".repeat(1 << 20)).unwrap();
    let done = world.admin(&["apply", "-f", file.to_str().unwrap()]);
    assert_eq!(done.code, Some(0), "{done:?}");
    std::fs::write(&file, "#".repeat((1 << 20) + 1)).unwrap();
    let done = world.admin(&["apply", "-f", file.to_str().unwrap()]);
    assert_eq!(done.code, Some(1), "{done:?}");
    assert!(done.err.contains("apply it in parts"), "{}", done.err);
    world.broker.with(|state| assert_eq!(state.apply_asked.len(), 1));
}

#[test]
fn nothing_is_removed_unless_somebody_said_yes() {
    let world = World::new();
    world.broker.with(|state| state.applied = applied());
    let file = world.path("scopes.yaml");
    std::fs::write(&file, "kind: Scope\n").unwrap();
    let args = ["apply", "-f", file.to_str().unwrap(), "--prune", "--selector", "team=ml"];
    let done = world.admin(&args);
    assert_eq!(done.code, Some(1), "{done:?}");
    assert!(done.err.contains("apply again with --yes"), "{}", done.err);
    world.broker.with(|state| {
        assert!(state.apply_asked.iter().all(|asked| asked.dry_run), "{:?}", state.apply_asked)
    });
}

#[test]
fn all_faults_are_shown_with_their_path() {
    let world = World::new();
    let fault = |document, subject: &str, path: &str, problem: &str| v1::DocumentFault {
        document,
        subject: subject.into(),
        path: path.into(),
        problem: problem.into(),
    };
    world.broker.with(|state| {
        state.applied.faults = vec![
            fault(1, "Scope/a", "spec.parameters.dataset.pattern", "is no regular expression"),
            fault(2, "", "", "is no mapping"),
            fault(0, "Binding/b", "spec.scope", "names a scope that goes"),
        ];
    });
    let mut child = world
        .dayfly(&["apply", "-f", "-", "--break-glass"])
        .arg(world.path("broker.sock"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"kind: Scope\n").unwrap();
    let done = Done::of(child.wait_with_output().unwrap());
    assert_eq!(done.code, Some(1), "{done:?}");
    golden("apply_faults.txt", &done.out);
}

#[test]
fn a_simulation_that_breaks_off_is_no_answer() {
    let world = World::new();
    let file = world.path("documents.yaml");
    std::fs::write(&file, "kind: Scope\n").unwrap();
    let done = world.admin(&["simulate", "-f", file.to_str().unwrap()]);
    assert_eq!((done.code, done.out.as_str()), (Some(1), ""), "{done:?}");
    assert!(done.err.starts_with("error: the answer broke off before its end\n"), "{done:?}");
}

#[test]
fn an_audit_chain_is_verified_from_the_broker_and_from_an_export() {
    let world = World::new();
    let heads = world.path("heads.json");
    let heads = heads.to_str().unwrap();
    let done = world.admin(&["audit", "verify", "--write-heads", heads]);
    assert_eq!(done.code, Some(0), "{done:?}");
    golden("audit_verify.txt", &done.out);

    let export = world.admin(&["audit", "export"]).out;
    let file = world.path("audit.jsonl");
    std::fs::write(&file, &export).unwrap();
    let file = file.to_str().unwrap();
    let offline = |args: &[&str]| {
        let args = [&["audit", "verify", "--file", file][..], args].concat();
        Done::of(world.dayfly(&args).output().unwrap())
    };
    assert_eq!(offline(&["--heads", heads]).code, Some(0));

    std::fs::write(file, export.replacen("kv-read", "kv-rite", 1)).unwrap();
    let done = offline(&["-o", "json"]);
    assert_eq!(done.code, Some(5), "{done:?}");
    assert!(done.out.contains("record 1 was changed after it was written"), "{}", done.out);
    assert_eq!(offline(&["--stream", "admin"]).code, Some(0), "the other chains still hold");

    // The whole chain, rewritten: only the head that was kept tells.
    world.broker.with(|state| {
        state.audit = chained(dayfly_domain::audit::Stream::Lease, 1);
    });
    assert_eq!(world.admin(&["audit", "verify", "--stream", "lease"]).code, Some(0));
    let done = world.admin(&["audit", "verify", "--stream", "lease", "--heads", heads]);
    assert_eq!(done.code, Some(5), "{done:?}");
    assert!(done.out.contains("its end was cut off"), "{}", done.out);
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let world = World::new();
    world.broker.with(|state| state.audit = chained(dayfly_domain::audit::Stream::Decision, 20_000));
    let mut child = world
        .dayfly(&["audit", "read", "--stream", "decision", "--break-glass"])
        .arg(world.path("broker.sock"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let done = Done::of(child.wait_with_output().unwrap());
    assert_eq!((done.code, done.err.as_str()), (Some(0), ""));
}

#[test]
fn a_broker_must_be_named_with_its_identity() {
    let world = World::new();
    let done = Done::of(world.dayfly(&["scope", "list"]).output().unwrap());
    assert_eq!(done.code, Some(2), "{done:?}");
    assert!(done.err.contains("no broker is named"), "{}", done.err);
    let done = Done::of(world.dayfly(&["scope", "list", "--broker", "b:1"]).output().unwrap());
    assert_eq!(done.code, Some(2), "{done:?}");
    assert!(done.err.contains("no SPIFFE ID is given for the broker"), "{}", done.err);

    let folder = world.path(".config/dayfly");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("config.toml"), "broker = 'b:1'\nbrokerid = 'x'\n").unwrap();
    let done = Done::of(world.dayfly(&["scope", "list"]).output().unwrap());
    assert_eq!(done.code, Some(2), "{done:?}");
    assert!(done.err.contains("brokerid"), "{}", done.err);
}

#[test]
fn help_version_completions_and_manual_pages_are_printed() {
    let world = World::new();
    let say = |args: &[&str]| Done::of(world.dayfly(args).output().unwrap());
    golden("exit_codes.txt", &say(&["exit-codes"]).out);
    let help = say(&["help", "exit-codes"]);
    assert!(help.code == Some(0) && help.out.contains("126"), "{help:?}");
    assert_eq!(say(&["version"]).out, format!("dayfly {}\n", env!("CARGO_PKG_VERSION")));
    let bash = say(&["completions", "bash"]);
    assert!(bash.code == Some(0) && bash.out.contains("_dayfly"), "{bash:?}");
    let dir = world.path("man");
    std::fs::create_dir(&dir).unwrap();
    assert_eq!(say(&["man", dir.to_str().unwrap()]).code, Some(0));
    assert!(dir.join("dayfly-run.1").exists() && dir.join("dayfly.1").exists());
    assert_eq!(say(&["frobnicate"]).code, Some(2));
}
