//! An untouched boto3 under `dayfly run`, with MinIO as a real STS and a real S3.

use std::time::Duration;

use harness::{Minio, Uid, World, WorldOptions};
use serde_json::json;

use crate::life::{ask_as, under_run};

/// Uses boto3 as any program does: no key, no profile, no word of Dayfly.
const BOTO3: &str = r#"
import os, sys, boto3, botocore.exceptions
s3 = boto3.client("s3", endpoint_url=sys.argv[1])
for key in ["corpus-7/a", "corpus-8/a"]:
    try:
        print("get", key, s3.get_object(Bucket="train", Key=key)["Body"].read().decode())
    except botocore.exceptions.ClientError as refused:
        print("get", key, refused.response["Error"]["Code"])
"#;

const STAY: &str = r#"
import time
print("url", os.environ["AWS_CONTAINER_CREDENTIALS_FULL_URI"])
print("bearer", open(os.environ["AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"]).read())
print("ready", flush=True)
time.sleep(600)
"#;

async fn start() -> (World, Minio, Uid) {
    let mut world = World::start(WorldOptions::default()).await.unwrap();
    let discovery = format!("{}/federation/.well-known/openid-configuration", world.issuer);
    let minio = Minio::start(&discovery, "sts.amazonaws.com").await.unwrap();
    minio
        .as_root("s3.create_bucket(Bucket='train')\nfor k in ['corpus-7/a', 'corpus-8/a']: s3.put_object(Bucket='train', Key=k, Body=k.encode())")
        .await
        .unwrap();
    world
        .add_to_broker(&format!("[aws]\nregion = \"us-east-1\"\nendpoint_url = \"{}\"\n", minio.url()))
        .await
        .unwrap();
    world.apply(&documents(minio.role_arn())).await.unwrap();
    let uid = world.workload("/train/a").await.unwrap();
    (world, minio, uid)
}

fn documents(role: &str) -> String {
    format!(
        r#"
kind: Scope
metadata: {{name: s3-train-read}}
spec:
  stages: [training]
  parameters: {{dataset: {{type: segment, pattern: "corpus-[0-9]{{1,6}}"}}}}
  ttl: {{default: 15m, max: 1h}}
  target:
    aws:
      role_arn: "{role}"
      region: us-east-1
      session_policy:
        Version: "2012-10-17"
        Statement:
          - {{Effect: Allow, Action: ["s3:GetObject"], Resource: ["arn:aws:s3:::train/{{dataset}}/*"]}}
---
kind: Binding
metadata: {{name: train-s3}}
spec: {{identities: ["spiffe://example.org/train/*"], scope: s3-train-read}}
"#
    )
}

#[tokio::test]
async fn boto3_reads_its_own_prefix_and_the_lease_says_when_it_runs_out() {
    let (mut world, minio, uid) = start().await;
    let options = ["--scope", "s3-train-read", "--param", "dataset=corpus-7"];
    let said = under_run(&world, uid, &options, BOTO3).arg(minio.url()).output().await;
    let said = said.unwrap_or_else(|error| panic!("{error:#}\n{}", world.logs()));
    assert_eq!(said, "get corpus-7/a corpus-7/a\nget corpus-8/a AccessDenied\n");
    for _ in 0..100 {
        if world.leases().await.unwrap().iter().all(|lease| lease.runs_out_at.is_some()) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let leases = world.leases().await.unwrap();
    assert_eq!(leases.len(), 1, "boto3 asks often; the agent asks once");
    // AWS has no call that ends a session, so nobody may read "revoked" here.
    assert_eq!((leases[0].state.as_str(), leases[0].outcome.as_str()), ("revoking", ""));
    assert!(leases[0].runs_out_at.is_some());
    let shown =
        world.dayfly_admin().unwrap().args(["lease", "show", &leases[0].lease_id]).output().await.unwrap();
    assert!(shown.contains("runs out at"), "{shown}");
}

#[tokio::test]
async fn the_address_and_bearer_of_a_task_are_nothing_to_an_outsider() {
    let (world, minio, uid) = start().await;
    let options = ["--scope", "s3-train-read", "--param", "dataset=corpus-7"];
    let script = format!("{BOTO3}{STAY}");
    let log = world.scratch.join("boto3.log");
    let mut program = under_run(&world, uid, &options, &script).arg(minio.url()).start(&log).unwrap();
    let ready = || async {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        if text.contains("ready") { Ok(text) } else { Err("not ready") }
    };
    let text = program.ready(Duration::from_secs(30), ready).await;
    let text = text.unwrap_or_else(|error| panic!("{error:#}\n{}", world.logs()));
    let word = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
    let (url, bearer) = (word("url "), word("bearer "));
    for thief in [Some(uid), None] {
        let (status, body) = ask_as(thief, &url, &json!({ "Authorization": bearer })).await;
        assert_eq!(status, 403, "{body}");
        assert!(body.contains("\"code\""), "an SDK shows the reason: {body}");
        assert!(!body.contains("SecretAccessKey"), "{body}");
    }
}

#[tokio::test]
async fn a_child_of_the_task_is_served_by_the_same_session() {
    let (mut world, minio, uid) = start().await;
    let script = format!(
        "import os, subprocess, sys\nif os.environ.get('DEEP') != '2':\n    os.environ['DEEP'] = str(int(os.environ.get('DEEP', '0')) + 1)\n    subprocess.run([sys.executable, '-c', open('/proc/self/cmdline').read().split(chr(0))[2], sys.argv[1]])\n    sys.exit()\n{BOTO3}"
    );
    let options = ["--scope", "s3-train-read", "--param", "dataset=corpus-7"];
    let said = under_run(&world, uid, &options, &script).arg(minio.url()).output().await;
    let said = said.unwrap_or_else(|error| panic!("{error:#}\n{}", world.logs()));
    assert!(said.contains("get corpus-7/a corpus-7/a"), "{said}\n{}", world.logs());
    assert_eq!(world.leases().await.unwrap().len(), 1);
}
