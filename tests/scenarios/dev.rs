//! `dayfly dev`: a whole Dayfly for one user, which nobody can take for a real one.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use harness::dev::{Dev, DevOptions};
use harness::pages::shell_example;
use harness::{Program, Running, Scratch, Uid, eventually, parts};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const WITHIN: Duration = Duration::from_secs(20);
const HOLD: &str =
    "until cat \"$DAYFLY_TOKEN_FILE\" 2>/dev/null; do sleep 0.02; done; echo held; exec sleep 60";
const TOKEN: [&str; 7] = [
    "run",
    "--scope",
    "call-service",
    "--",
    "sh",
    "-c",
    "until cat \"$DAYFLY_TOKEN_FILE\" 2>/dev/null; do sleep 0.02; done",
];

#[tokio::test]
async fn dev_gives_a_program_a_token_that_ends_with_it() {
    let dev = Dev::start(DevOptions::default()).await.unwrap();
    let token = dev.verb(TOKEN).unwrap().output().await.unwrap();
    let claims = claims(&token);
    assert_eq!(claims["sub"], "spiffe://dev.dayfly/training/0");
    assert_eq!(claims["dev"], json!(true), "nobody takes it for a real one");
    let lease = ended_lease(&dev, claims["jti"].as_str().unwrap()).await;
    assert_eq!(lease["outcome"], "verified");
    assert!(dev.verb(["audit", "verify"]).unwrap().finish().await.unwrap().status.success());
    dev.stop().await.unwrap();
}

#[tokio::test]
async fn dev_works_without_root_and_says_what_is_different() {
    let user = Uid::fresh();
    let dev = Dev::start(DevOptions { user: Some(user), ..DevOptions::default() }).await.unwrap();
    assert!(dev.process.log().contains("Without root a task hangs on its process"), "{}", dev.process.log());
    let token = dev.verb(TOKEN).unwrap().output().await.unwrap();
    let claims = claims(&token);
    assert_eq!(claims["sub"], format!("spiffe://dev.dayfly/training/{}", user.0));
    assert_eq!(ended_lease(&dev, claims["jti"].as_str().unwrap()).await["outcome"], "verified");
    let task = dev.json(&["task", "show", claims["task"].as_str().unwrap()]).await.unwrap();
    assert!(task.to_string().contains("\"process\""), "{task}");

    // Nothing of it is for other users.
    let folder = fs::metadata(dev.home.join(".dayfly")).unwrap();
    assert_eq!((folder.uid(), folder.mode() & 0o777), (user.0, 0o700));
    assert_eq!(fs::read_to_string(dev.home.join(".dayfly/.gitignore")).unwrap(), "*\n");
    dev.stop().await.unwrap();
}

#[tokio::test]
async fn dev_exchanges_tokens_as_the_page_shows() {
    let user = Uid::fresh();
    let dev = Dev::start(DevOptions { user: Some(user), ..DevOptions::default() }).await.unwrap();
    let example = shell_example("token-exchange.md", "### On a laptop").unwrap();
    let dayfly = parts::binary("dayfly").unwrap();
    let path = format!("{}:{}", dayfly.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let shell = user.program("bash").args(["-euo", "pipefail", "-c", &example]).in_folder(&dev.home);
    let said = shell.env("PATH", path).env("no_proxy", "*").output().await.unwrap();
    let answer: Value = serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"));
    let claims = claims(answer["access_token"].as_str().unwrap_or_else(|| panic!("{answer}")));
    assert_eq!(claims["sub"], format!("spiffe://dev.dayfly/training/{}", user.0));
    assert_eq!((&claims["aud"], &claims["dev"]), (&json!("spiffe://dev.dayfly/tool/service"), &json!(true)));
    let key = fs::metadata(dev.home.join("svid.0.key")).unwrap();
    assert_eq!((key.uid(), key.mode() & 0o777), (user.0, 0o600));
    dev.stop().await.unwrap();
}

#[tokio::test]
async fn dev_keeps_its_state_and_its_issuer_from_one_start_to_the_next() {
    let dev = Dev::start(DevOptions::default()).await.unwrap();
    let first = claims(&dev.verb(TOKEN).unwrap().output().await.unwrap());
    dev.verb(["apply", "--yes", "-f", extra(&dev.scratch).to_str().unwrap()])
        .unwrap()
        .output()
        .await
        .unwrap();
    let second_one = dev.verb(["dev"]).unwrap().finish().await.unwrap();
    assert!(
        !second_one.status.success() && second_one.stderr.contains("another `dayfly dev`"),
        "{}",
        second_one.stderr
    );

    let scratch = dev.stop().await.unwrap();
    let dev = Dev::start_in(scratch, DevOptions::default()).await.unwrap();
    let again = claims(&dev.verb(TOKEN).unwrap().output().await.unwrap());
    assert_eq!(again["iss"], first["iss"]);
    let bindings = dev.json(&["binding", "list"]).await.unwrap();
    assert!(bindings.to_string().contains("late-comers"), "what was applied is still there: {bindings}");
    assert!(dev.json(&["lease", "show", first["jti"].as_str().unwrap()]).await.is_ok());
    dev.stop().await.unwrap();
}

#[tokio::test]
async fn dev_takes_back_what_is_held_when_it_stops() {
    let dev = Dev::start(DevOptions::default()).await.unwrap();
    let words = ["run", "--scope", "call-service", "--", "sh", "-c", HOLD];
    let mut task = dev.verb(words).unwrap().start(&dev.scratch.join("task.log")).unwrap();
    let token = eventually("the token", WITHIN, || async {
        let said = task.log();
        if said.ends_with("held\n") { Ok(said) } else { Err(said) }
    });
    let token = claims(token.await.unwrap().strip_suffix("held\n").unwrap());
    let log = dev.process.log_path().to_owned();
    let scratch = dev.stop().await.unwrap();
    let log = fs::read_to_string(log).unwrap();
    assert!(log.contains("1 open tasks are ended") && log.contains("call-service of "), "{log}");
    assert!(log.contains(": verified ("), "{log}");
    let _killed = task.ended(WITHIN).await.unwrap();

    let dev = Dev::start_in(scratch, DevOptions::default()).await.unwrap();
    let lease = dev.json(&["lease", "show", token["jti"].as_str().unwrap()]).await.unwrap();
    assert_eq!((&lease["state"], &lease["outcome"]), (&json!("ended"), &json!("verified")));
    dev.stop().await.unwrap();
}

#[tokio::test]
async fn dev_speaks_to_no_target_outside_this_machine_unless_it_is_named() {
    let scratch = Scratch::new().unwrap();
    for words in [
        &["--vault", "https://vault.example.org:8200"][..],
        &["--aws-endpoint", "https://sts.eu-central-1.amazonaws.com"],
        &["--vault", "http://localhost:8200"],
        &["--aws-endpoint", "https://10.0.0.1", "--i-know-this-is-real", "10.0.0.2"],
    ] {
        let program =
            Program::new(parts::binary("dayfly").unwrap()).arg("dev").args(words).in_folder(scratch.path());
        let refused = program.finish().await.unwrap();
        assert_eq!(refused.status.code(), Some(2), "{words:?}: {}", refused.stderr);
        assert!(refused.stderr.contains("--i-know-this-is-real"), "{words:?}: {}", refused.stderr);
        assert!(!scratch.join(".dayfly").exists(), "nothing was made");
    }
}

#[tokio::test]
async fn nothing_of_the_shell_reaches_the_parts_of_dev() {
    let text = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let env = vec![
        text("VAULT_ADDR", "https://vault.example.org"),
        text("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE"),
        text("HTTPS_PROXY", "http://10.0.0.1:1"),
        // Would make the broker speak to a real Vault, and the agent to a real broker.
        text("DAYFLY_VAULT__ADDRESS", "https://vault.example.org"),
        text("DAYFLY_BROKER__ADDRESS", "broker.example.org:7443"),
    ];
    let dev = Dev::start(DevOptions { env, ..DevOptions::default() }).await.unwrap();
    let parts = children(dev.process.pid());
    assert_eq!(parts.len(), 3, "broker, attest, agent");
    for pid in parts {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap();
        let environment = String::from_utf8_lossy(&environment).into_owned();
        for word in ["example", "AKIA", "10.0.0.1"] {
            assert!(!environment.contains(word), "{word} in {environment}");
        }
    }
    dev.stop().await.unwrap();
}

#[tokio::test]
async fn the_parts_of_dev_do_not_outlive_it() {
    let mut dev = Dev::start(DevOptions::default()).await.unwrap();
    let parts = children(dev.process.pid());
    assert_eq!(parts.len(), 3);
    dev.process.signal(Signal::SIGKILL).unwrap();
    assert!(Running::was_killed(dev.process.ended(WITHIN).await.unwrap()));
    eventually("the end of the parts", WITHIN, || async {
        let left: Vec<_> = parts.iter().filter(|pid| Path::new(&format!("/proc/{pid}")).exists()).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?} are left")) }
    })
    .await
    .unwrap();
    // What it left behind does not stand in the way of the next.
    let Dev { scratch, .. } = dev;
    Dev::start_in(scratch, DevOptions::default()).await.unwrap().stop().await.unwrap();
}

#[tokio::test]
async fn dev_ends_with_a_reason_when_a_part_ends() {
    let mut dev = Dev::start(DevOptions::default()).await.unwrap();
    let parts = children(dev.process.pid());
    let agent = parts.iter().find(|pid| {
        command_line(**pid).contains("\0run\0--config\0") && command_line(**pid).contains("dayfly-agent")
    });
    let agent = nix::unistd::Pid::from_raw(*agent.unwrap());
    nix::sys::signal::kill(agent, Signal::SIGKILL).unwrap();
    let status = dev.process.ended(WITHIN).await.unwrap();
    assert_eq!(status.code(), Some(1));
    assert!(dev.process.log().contains("the agent ended with signal: 9"), "{}", dev.process.log());
}

#[tokio::test]
async fn a_deep_folder_gets_its_sockets_elsewhere() {
    let scratch = Scratch::new().unwrap();
    let deep = scratch.path().join("a".repeat(120));
    fs::create_dir(&deep).unwrap();
    let dir = deep.join(".dayfly");
    let args = vec!["--dir".to_owned(), dir.to_str().unwrap().to_owned()];
    let program = Program::new(parts::binary("dayfly").unwrap()).arg("dev").args(&args);
    let mut process = program.start(&scratch.join("dev.log")).unwrap();
    let env = Program::new(parts::binary("dayfly").unwrap()).args(["dev", "env"]).args(&args);
    let exports = process.ready(WITHIN, || env.output()).await.unwrap();
    assert!(process.log().contains("is too deep for sockets"), "{}", process.log());
    assert!(exports.contains("DAYFLY_AGENT_SOCKET='/tmp/dayfly-0-"), "{exports}");
    assert!(process.terminate().await.unwrap().success());
}

fn claims(token: &str) -> Value {
    let body = token.trim().split('.').nth(1).unwrap_or_else(|| panic!("no token: {token}"));
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(body).unwrap()).unwrap()
}

async fn ended_lease(dev: &Dev, id: &str) -> Value {
    eventually("the end of the lease", WITHIN, || async {
        let lease = dev.json(&["lease", "show", id]).await?;
        anyhow::ensure!(lease["state"] == "ended", "{lease}");
        Ok(lease)
    })
    .await
    .unwrap()
}

fn extra(scratch: &Scratch) -> std::path::PathBuf {
    let text = "kind: Binding\nmetadata: {name: late-comers}\nspec:\n  identities: [\"spiffe://dev.dayfly/inference/*\"]\n  scope: call-service\n";
    scratch.file("extra.yaml", 0o644, text).unwrap()
}

/// The processes whose parent is `pid`.
fn children(pid: u32) -> Vec<i32> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(child) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
        let status = fs::read_to_string(format!("/proc/{child}/status")).unwrap_or_default();
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
        if parent.is_some_and(|parent| parent.trim() == pid.to_string()) {
            found.push(child);
        }
    }
    found
}

fn command_line(pid: i32) -> String {
    String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default()).into_owned()
}
