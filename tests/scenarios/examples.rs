//! Every program of `examples/` does what it says, against `dayfly dev`.

use std::path::Path;
use std::time::Duration;

use harness::dev::{Dev, DevOptions};
use harness::{Moto, Program, Python, Vault, eventually, parts};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const WITHIN: Duration = Duration::from_secs(20);
const SERVICE: &str = "spiffe://dev.dayfly/tool/service";

#[tokio::test]
async fn boto3_untouched_reads_its_training_set_in_a_task_and_only_there() {
    let moto = Moto::start().await.unwrap();
    let args = vec!["--aws-endpoint".to_owned(), moto.url()];
    let mut dev = Dev::start(DevOptions { args, ..DevOptions::default() }).await.unwrap();
    dev.apply("laptop-aws.yaml").await.unwrap();
    dev.env.push(("AWS_ENDPOINT_URL".to_owned(), moto.url()));
    dev.env.push(("AWS_REGION".to_owned(), "us-east-1".to_owned()));
    let fill = "import boto3\ns3 = boto3.client('s3', aws_access_key_id='x', aws_secret_access_key='x')\n\
                s3.create_bucket(Bucket='datasets'); s3.put_object(Bucket='datasets', Key='corpus-7/part-0', Body=b'abc')";
    dev.shell(Python::find().unwrap().script(fill)).output().await.unwrap();

    let scope = ["--scope", "s3-train-read", "--param", "dataset=corpus-7"];
    let read = dev.example_in_task(&scope, "train.py", &["--epochs", "2", "--pause", "0"]).await.unwrap();
    assert!(read.status.success(), "{}", read.stderr);
    assert_eq!(read.stdout, "epoch 0: read 3 bytes\nepoch 1: read 3 bytes\n");
    let leases = dev.json(&["lease", "list", "--all", "--scope", "s3-train-read"]).await.unwrap();
    assert_eq!(leases["leases"].as_array().unwrap().len(), 1, "{leases}");
    assert_eq!(leases["leases"][0]["promise"]["revocability"], "expiry_only");

    let outside = dev.example("train.py").await.unwrap().finish().await.unwrap();
    assert!(outside.stderr.contains("Unable to locate credentials"), "{}", outside.stderr);
    let other = ["--scope", "s3-train-read", "--param", "dataset=corpus-9"];
    let refused = dev.example_in_task(&other, "train.py", &[]).await.unwrap();
    assert!(!refused.status.success(), "no binding carries corpus-9: {}", refused.stdout);
    dev.stop().await.unwrap();
}

#[tokio::test]
async fn hvac_untouched_reads_its_secret_in_a_task_and_vault_forgets_the_token() {
    let vault = Vault::start().await.unwrap();
    let args = vec!["--vault".to_owned(), vault.url()];
    let dev = Dev::start(DevOptions { args, ..DevOptions::default() }).await.unwrap();
    let bundle = std::fs::read_to_string(dev.home.join(".dayfly/spiffe/bundle.json")).unwrap();
    set_up(&vault, &serde_json::from_str(&bundle).unwrap()).await;
    // The broker's first login came before the role was there; it waits a moment before the next.
    eventually("a login at Vault", WITHIN, || dev.apply("laptop-vault.yaml")).await.unwrap();

    let read = dev
        .example_in_task(&["--scope", "kb-read"], "read_kb.py", &["--times", "2", "--pause", "0"])
        .await
        .unwrap();
    assert!(read.status.success(), "{}", read.stderr);
    assert_eq!(read.stdout, "read 0: keys answer\nread 1: keys answer\n");
    let lease = eventually("the end of the lease", WITHIN, || async {
        let leases = dev.json(&["lease", "list", "--all", "--scope", "kb-read"]).await?;
        anyhow::ensure!(leases["leases"][0]["state"] == "ended", "{leases}");
        Ok(leases["leases"][0].clone())
    });
    assert_eq!(lease.await.unwrap()["outcome"], "verified");
    dev.stop().await.unwrap();
}

#[tokio::test]
async fn a_checking_service_serves_the_holder_while_the_task_lives_and_nobody_else() {
    let dev = Dev::start(DevOptions::default()).await.unwrap();
    let service = dev.example("checking_service.py").await.unwrap();
    let service = service.env("SPIFFE_ENDPOINT_SOCKET", dev.exported("DAYFLY_DEV_SERVICE_API"));
    let log = dev.scratch.join("service.log");
    let mut service = service.start(&log).unwrap();
    let url = service.ready(WITHIN, || async { url_in(&log) }).await.unwrap();

    let args = [url.as_str(), "--times", "2", "--pause", "0"];
    let called = dev.example_in_task(&["--scope", "call-service"], "call_service.py", &args).await.unwrap();
    assert!(called.status.success(), "{}{}", called.stdout, called.stderr);
    assert!(
        called.stdout.contains("buy milk") && called.stdout.contains("spiffe://dev.dayfly/training/0"),
        "{}",
        called.stdout
    );

    // The holder's own program keeps the token's bytes; the service, as another identity, and a later task try them.
    let stolen = dev.scratch.join("stolen");
    let script = r#"until cp "$DAYFLY_TOKEN_FILE" "$1" 2>/dev/null; do sleep 0.02; done; chmod 600 "$1"; touch "$1.ready"; sleep 30"#;
    let words = ["run", "--scope", "call-service", "--", "sh", "-c", script, "sh", stolen.to_str().unwrap()];
    let mut task = dev.verb(words).unwrap().start(&dev.scratch.join("task.log")).unwrap();
    eventually("the token", WITHIN, || async { std::fs::metadata(dev.scratch.join("stolen.ready")) })
        .await
        .unwrap();
    let show = async |api: &str| {
        let shown = dev.example("call_service.py").await.unwrap().args([&url, "--times", "1"]);
        shown.env("DAYFLY_TOKEN_FILE", &stolen).env("SPIFFE_ENDPOINT_SOCKET", api).finish().await.unwrap()
    };
    let holder = dev.exported("SPIFFE_ENDPOINT_SOCKET").to_owned();
    assert!(show(&holder).await.status.success(), "the task lives");
    let other = show(dev.exported("DAYFLY_DEV_SERVICE_API")).await;
    assert!(other.stderr.contains("401") && other.stderr.contains("not issued to"), "{}", other.stderr);
    task.kill().unwrap();
    eventually("the refusal", WITHIN, || async {
        let shown = show(&holder).await;
        anyhow::ensure!(shown.stderr.contains("the token is not active"), "{}{}", shown.stdout, shown.stderr);
        Ok(())
    })
    .await
    .unwrap();
    dev.stop().await.unwrap();
}

#[tokio::test]
async fn plain_grpc_from_python_opens_a_task_and_ends_it() {
    let dev = Dev::start(DevOptions::default()).await.unwrap();
    let said =
        dev.example("grpc_task.py").await.unwrap().args(["--scope", "call-service"]).output().await.unwrap();
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((&said["credential"], &said["audience"]), (&json!("token"), &json!(SERVICE)));
    assert_eq!((&said["ended_tasks"], &said["queued_leases"]), (&json!(1), &json!(1)));
    ended(&dev, said["lease"].as_str().unwrap()).await;

    let refused =
        dev.example("grpc_task.py").await.unwrap().args(["--scope", "no-such-scope"]).finish().await.unwrap();
    assert!(refused.stderr.starts_with("PERMISSION_DENIED: "), "{}", refused.stderr);
    dev.stop().await.unwrap();
}

#[tokio::test]
async fn a_rust_workload_speaks_to_the_broker_itself() {
    let dev = Dev::start(DevOptions::default()).await.unwrap();
    let program = Program::new(parts::binary("examples/direct").unwrap()).args([
        "--scope",
        "call-service",
        "--hold",
        "0",
    ]);
    let said = dev.shell(program).output().await.unwrap();
    let lease = said.lines().find_map(|line| line.strip_prefix("lease ")).unwrap();
    assert!(said.contains(&format!("for {SERVICE}")) && said.contains("ended; 1 leases"), "{said}");
    ended(&dev, lease).await;
    dev.stop().await.unwrap();
}

#[tokio::test]
async fn a_guard_hands_a_model_to_a_program_whose_task_may_load_it_and_to_nobody_else() {
    let dev = Dev::start(DevOptions::default()).await.unwrap();
    dev.apply("laptop-models.yaml").await.unwrap();
    let models = dev.scratch.folder("guarded", 0o755).unwrap();
    dev.scratch.folder("guarded/models", 0o755).unwrap();
    dev.scratch.file("guarded/models/tiny", 0o644, "weights").unwrap();
    let issuer = format!("{}/receipt", dev.exported("DAYFLY_DEV_ISSUER"));
    let jwks = reqwest::get(format!("{issuer}/jwks.json")).await.unwrap().bytes().await.unwrap();
    let jwks = dev.scratch.file("receipt-jwks.json", 0o644, jwks).unwrap();
    let guard = Program::new(parts::binary("examples/guard").unwrap()).args(["--listen", "127.0.0.1:0"]);
    let guard = guard.args(["--accept", "dev.dayfly", "--issuer", &issuer]).arg("--artifacts").arg(&models);
    let guard = dev.shell(guard.arg("--jwks").arg(&jwks));
    let log = dev.scratch.join("guard.log");
    let mut guard =
        guard.env("SPIFFE_ENDPOINT_SOCKET", dev.exported("DAYFLY_DEV_SERVICE_API")).start(&log).unwrap();
    let address = guard.ready(WITHIN, || async { address_in(&log) }).await.unwrap();

    let digest = format!("{:x}", Sha256::digest("weights"));
    let other = format!("{:x}", Sha256::digest("other weights"));
    let ceiling = |digest: &str| {
        ["--scope", "model-load", "--param", "model=tiny", "--param"]
            .map(str::to_owned)
            .into_iter()
            .chain([format!("digest={digest}")])
            .collect::<Vec<_>>()
    };
    let load = async |declared: &str, named: &str| {
        let ceiling = ceiling(declared);
        let ceiling: Vec<&str> = ceiling.iter().map(String::as_str).collect();
        let digest = format!("sha256:{named}");
        let args = [&format!("https://{address}"), "models/tiny", "--digest", &digest];
        dev.example_in_task(&ceiling, "load_model.py", &args).await.unwrap()
    };
    let loaded = load(&digest, &digest).await;
    assert_eq!(loaded.stdout, "loaded models/tiny: 7 bytes\n", "{}", loaded.stderr);
    assert!(guard.log().contains("handed out"), "{}", guard.log());
    let undeclared = load(&digest, &other).await;
    assert!(
        undeclared.stderr.contains("PERMISSION_DENIED") && undeclared.stderr.contains("did not declare"),
        "{}",
        undeclared.stderr
    );
    let not_there = load(&other, &other).await;
    assert!(
        not_there.stderr.contains("403 the receipt is not good here: for another digest"),
        "{}",
        not_there.stderr
    );
    dev.scratch.file("guarded/models/tiny", 0o644, "poison").unwrap();
    let changed = load(&digest, &digest).await;
    assert!(changed.stderr.contains("for another digest"), "{}", changed.stderr);

    // `dayfly check` in a task and outside.
    let artifact = format!("models/tiny@sha256:{digest}");
    let run = ["run"].iter().map(|word| (*word).to_owned()).chain(ceiling(&digest));
    let check = ["--", "dayfly", "check", "load-model", &artifact, "-o", "json"].map(str::to_owned);
    let dayfly = parts::binary("dayfly").unwrap();
    let path = format!("{}:{}", dayfly.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let told = dev.verb(run.chain(check)).unwrap().env("PATH", path).output().await.unwrap();
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(
        (&told["scope"], &told["digest_pinned"], &told["receipt"]),
        (&json!("model-load"), &json!(true), &Value::Null)
    );
    let decisions = dev.json(&["audit", "verify"]).await;
    assert!(decisions.is_ok(), "{decisions:?}");
    let outside = dev.verb(["check", "load-model", &artifact]).unwrap().finish().await.unwrap();
    assert!(outside.stderr.contains("DAYFLY_TASK_ID is not set"), "{}", outside.stderr);
    guard.terminate().await.unwrap();
    dev.stop().await.unwrap();
}

fn address_in(log: &Path) -> anyhow::Result<String> {
    let said = std::fs::read_to_string(log)?;
    let address =
        said.split_once("address=").map(|(_, rest)| rest.split_whitespace().next().unwrap_or_default());
    address.map(str::to_owned).ok_or_else(|| anyhow::anyhow!("it said: {said}"))
}

async fn ended(dev: &Dev, lease: &str) {
    let ended = eventually("the end of the lease", WITHIN, || async {
        let lease = dev.json(&["lease", "show", lease]).await?;
        anyhow::ensure!(lease["state"] == "ended", "{lease}");
        Ok(lease)
    });
    assert_eq!(ended.await.unwrap()["outcome"], "verified");
}

fn url_in(log: &Path) -> anyhow::Result<String> {
    let said = std::fs::read_to_string(log)?;
    let url = said.split_once(" at ").map(|(_, url)| url.trim().to_owned());
    url.filter(|url| url.ends_with("/notes")).ok_or_else(|| anyhow::anyhow!("it said: {said}"))
}

/// What deploy/vault tells, under the names that `dayfly dev` and deploy/examples use.
async fn set_up(vault: &Vault, bundle: &Value) {
    const ROLE: &str = "dayfly-demo-kb-read";
    vault.enable_kv().await.unwrap();
    vault.api("POST", "secret/data/kb/hello", json!({"data": {"answer": "42"}})).await.unwrap();
    vault.write_policy(ROLE, r#"path "secret/data/kb/*" { capabilities = ["read"] }"#).await.unwrap();
    let update = |path: &str| format!("path \"{path}\" {{ capabilities = [\"update\"] }}\n");
    let read = |path: &str| format!("path \"{path}\" {{ capabilities = [\"read\"] }}\n");
    let mint = format!(
        "{}{}{}{}{}",
        update(&format!("auth/token/create/{ROLE}")),
        update("auth/token/renew-accessor"),
        read(&format!("auth/token/roles/{ROLE}")),
        read(&format!("sys/policies/acl/{ROLE}")),
        read("sys/mounts"),
    );
    let revoke: String = [
        "auth/token/revoke-accessor",
        "auth/token/lookup-accessor",
        "sys/leases/revoke",
        "sys/leases/lookup",
        "auth/token/renew-self",
    ]
    .map(update)
    .concat();
    vault.write_policy("mint", &mint).await.unwrap();
    vault.write_policy("revoke", &revoke).await.unwrap();
    vault.trust_jwt_svids("dayfly-dev", bundle).await.unwrap();
    for (role, extra) in [
        ("dayfly-mint", json!({"token_policies": ["mint"], "token_ttl": "10m", "token_max_ttl": "10m"})),
        ("dayfly-revoke", json!({"token_policies": ["revoke"], "token_period": "24h"})),
    ] {
        let mut spec = json!({
            "role_type": "jwt", "user_claim": "sub", "bound_subject": "spiffe://dev.dayfly/dayfly/broker",
            "bound_audiences": ["vault"], "token_no_default_policy": true, "token_type": "service",
        });
        spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        vault.api("POST", &format!("auth/dayfly-dev/role/{role}"), spec).await.unwrap();
    }
    let spec = json!({
        "allowed_policies": [ROLE], "token_no_default_policy": true, "orphan": true, "renewable": true,
        "token_type": "service", "token_explicit_max_ttl": "8h",
    });
    vault.write_token_role(ROLE, spec).await.unwrap();
}
