//! The demo does what it says, counts what it says, and fails when something outlives its task.

use std::time::Duration;

use harness::dev::repository;
use harness::{Program, Python, Scratch, Vault, parts};
use serde_json::Value;

const WITHIN: Duration = Duration::from_secs(180);

#[tokio::test]
async fn the_demo_shows_every_provider_and_nothing_outlives_its_task() {
    let (scratch, vault) = (Scratch::new().unwrap(), Vault::start().await.unwrap());
    let token = scratch.file("token", 0o600, vault.root_token()).unwrap();
    let mut program = Program::new(repository().join("scripts/demo"))
        .args(["--json", "--tasks", "4", "--vault", &vault.url(), "--vault-token-file"])
        .arg(token)
        .env("DAYFLY_DEMO_BIN", parts::exported("DAYFLY_TEST_BIN").unwrap())
        // Must be forgotten: nobody is there.
        .env("VAULT_ADDR", "http://127.0.0.1:1")
        .env("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
        .env("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
        .env("TMPDIR", scratch.path());
    for name in ["HOME", "DAYFLY_CACHE", "XDG_CACHE_HOME"] {
        if let Some(value) = std::env::var_os(name) {
            program = program.env(name, value);
        }
    }
    let mut demo = program.start(&scratch.join("demo.log")).unwrap();
    let status = demo.ended(WITHIN).await.unwrap();
    let log = demo.log();
    assert!(status.success(), "{log}");

    let totals: Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
    let number = |name: &str| totals[name].as_u64().unwrap();
    assert_eq!(number("issued"), number("verified") + number("runs_out") + number("outlived"), "{totals}");
    assert_eq!((number("verified"), number("runs_out"), number("outlived")), (8, 4, 0), "{log}");
    let ms = |name: &str| totals["end_to_refused_ms"][name].as_f64().unwrap();
    assert!(0.0 < ms("p50") && ms("p50") <= ms("p99"), "{totals}");
    for said in
        ["aws address and token: 403", "vault address and token: 403", "every chain holds", "runs out at"]
    {
        assert!(log.contains(said), "{said} is missing:\n{log}");
    }
    // What it made in Vault is gone.
    let (status, mounts) = vault.call(vault.root_token(), "GET", "sys/mounts", None).await.unwrap();
    assert!(status == 200 && !mounts.to_string().contains("dayfly"), "{mounts}");
}

#[tokio::test]
async fn the_demo_fails_when_a_credential_outlives_its_task_or_is_not_accounted_for() {
    let script = r#"
import sys, types
sys.path.insert(0, sys.argv[1])
import report

def lease(state, outcome=None, runs_out_at=None):
    return {"lease_id": "l", "state": state, "outcome": outcome, "runs_out_at": runs_out_at}

def judged(lease, outlived, failure=None):
    task = types.SimpleNamespace(
        provider="token", id="t", failure=failure, leases=[lease], lease_id="l", outlived=outlived, refused_ms=None if outlived else 3.0
    )
    totals = report.count([task], types.SimpleNamespace(strays=[]))
    return totals, report.verdict(totals, [task], [])

totals, code = judged(lease("ended", "verified"), False)
assert (code, totals["verified"], totals["end_to_refused_ms"]["p99"]) == (0, 1, 3.0), totals
# The broker says it is gone, and it still works.
totals, code = judged(lease("ended", "verified"), True)
assert (code, totals["outlived"], totals["verified"]) == (1, 1, 0), totals
# It works, as was declared.
totals, code = judged(lease("revoking", runs_out_at="2030-01-01T00:00:00Z"), True)
assert (code, totals["runs_out"]) == (0, 1), totals
# Refused, but nobody said that it was taken back.
totals, code = judged(lease("revoking"), False)
assert code == 1 and totals["issued"] == 1, totals
# A program that failed shows nothing.
totals, code = judged(lease("ended", "verified"), False, failure="it died")
assert code == 1, totals
assert report.verdict(totals, [], [("aws", 200)]) == 1
print("judged")
"#;
    let folder = repository().join("scripts/demo_app");
    let said = Python::find().unwrap().script(script).arg(folder).output().await.unwrap();
    assert_eq!(said.trim(), "judged");
}
