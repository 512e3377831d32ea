//! What the scenarios on the whole of Dayfly share: programs that hold a credential, and what Vault itself knows.

use std::time::Duration;

use harness::{Program, Running, Uid, World, eventually};
use serde_json::{Value, json};

/// Reads its secret through the address it was given, says so, and lives until it is killed.
pub const READ_AND_STAY: &str = r#"
import json, os, sys, time, urllib.request
request = urllib.request.Request(
    os.environ["VAULT_ADDR"] + "/v1/secret/data/kb/a",
    headers={"X-Vault-Token": os.environ["VAULT_TOKEN"], "X-Vault-Request": "true"})
print("read", json.load(urllib.request.urlopen(request, timeout=10))["data"]["data"]["b"])
print("address", os.environ["VAULT_ADDR"])
print("placeholder", os.environ["VAULT_TOKEN"])
print("task", os.environ["DAYFLY_TASK_ID"], flush=True)
time.sleep(600)
"#;

/// A program under `dayfly run` that has read its secret.
pub struct Holder {
    /// The program itself: `dayfly run` became it.
    pub program: Running,
    /// The agent's Vault address in its environment.
    pub address: String,
    /// What stands in the place of its token.
    pub placeholder: String,
    /// Its task.
    pub task: String,
}

/// Starts one and waits until it has read its secret.
pub async fn hold(world: &World, uid: Uid) -> Holder {
    let log = world.scratch.join(format!("holder-{}.log", rand::random::<u32>()));
    let mut program = under_run(world, uid, &["--scope", "kb-read"], READ_AND_STAY).start(&log).unwrap();
    let read = program.log_path().to_owned();
    let said = move || {
        let text = std::fs::read_to_string(&read).unwrap_or_default();
        async move { if text.contains("task ") { Ok(text) } else { Err("it has not read yet") } }
    };
    let text = match program.ready(Duration::from_secs(20), said).await {
        Ok(text) => text,
        Err(error) => panic!("{error:#}\n{}", world.logs()),
    };
    let word = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().to_owned()
    };
    assert_eq!(word("read "), "c");
    Holder { program, address: word("address "), placeholder: word("placeholder "), task: word("task ") }
}

/// Python under `dayfly run` with these options.
pub fn under_run(world: &World, uid: Uid, options: &[&str], script: &str) -> Program {
    let python = harness::Python::find().unwrap().path();
    world.dayfly(uid).unwrap().arg("run").args(options).args(["--"]).arg(python).args(["-c", script])
}

/// Tokens of Dayfly that live at Vault: lease id and accessor.
pub async fn vault_tokens(world: &World) -> Vec<(String, String)> {
    let vault = world.vault.as_ref().unwrap();
    let (status, listed) =
        vault.call(vault.root_token(), "LIST", "auth/token/accessors", None).await.unwrap();
    assert_eq!(status, 200, "{listed}");
    let mut tokens = Vec::new();
    for accessor in listed["data"]["keys"].as_array().unwrap() {
        let body = json!({ "accessor": accessor });
        let (status, found) =
            vault.call(vault.root_token(), "POST", "auth/token/lookup-accessor", Some(body)).await.unwrap();
        if status == 200
            && let Some(lease) = found["data"]["meta"]["lease"].as_str()
        {
            tokens.push((lease.to_owned(), accessor.as_str().unwrap().to_owned()));
        }
    }
    tokens
}

/// Waits until no token of Dayfly lives at Vault.
pub async fn all_gone(world: &World, within: Duration) {
    let gone = eventually("the end of every token at Vault", within, || async {
        let tokens = vault_tokens(world).await;
        if tokens.is_empty() { Ok(()) } else { Err(format!("{} live", tokens.len())) }
    });
    if let Err(error) = gone.await {
        panic!("{error:#}\n{}", world.logs());
    }
}

/// Waits until every lease is ended, and returns how each did.
pub async fn outcomes(world: &mut World, within: Duration) -> Vec<String> {
    let until = std::time::Instant::now() + within;
    loop {
        let leases = world.leases().await.unwrap();
        if leases.iter().all(|lease| lease.state == "ended") {
            return leases.into_iter().map(|lease| lease.outcome).collect();
        }
        assert!(std::time::Instant::now() < until, "{leases:#?}\n{}", world.logs());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Asks an HTTP address as some user, in a process of its own, outside any task.
pub async fn ask_as(uid: Option<Uid>, url: &str, headers: &Value) -> (u16, String) {
    let script = r#"
import json, sys, urllib.error, urllib.request
request = urllib.request.Request(sys.argv[1], headers=json.loads(sys.argv[2]))
try:
    answer = urllib.request.urlopen(request, timeout=10)
    print(answer.status); print(answer.read().decode())
except urllib.error.HTTPError as refused:
    print(refused.code); print(refused.read().decode())
"#;
    let python = harness::Python::find().unwrap().path();
    let program = match uid {
        Some(uid) => uid.program(python),
        None => Program::new(python),
    };
    let said = program.args(["-c", script, url]).arg(headers.to_string()).output().await.unwrap();
    let (status, body) = said.split_once('\n').unwrap();
    (status.trim().parse().unwrap(), body.to_owned())
}
