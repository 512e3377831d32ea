//! The real broker at a cloud that evaluates, and that cloud beside moto, which others wrote.

use std::time::{Duration, Instant};

use dayfly_fakecloud::{ACCOUNT, FakeCloud, Fault, SessionAsk, Trouble};
use harness::{Moto, Python, World, WorldOptions, cloud};
use serde_json::{Value, json};

use crate::life::under_run;

const BOTO3: &str = r#"
import sys, boto3, botocore.exceptions
s3 = boto3.client("s3", endpoint_url=sys.argv[1])
def tell(what, call):
    try:
        print(what, call())
    except botocore.exceptions.ClientError as refused:
        print(what, refused.response["Error"]["Message"].split(" is not authorized to perform: ")[-1])
for key in ["corpus-7/a", "corpus-8/a"]:
    tell("get", lambda: s3.get_object(Bucket="corpora", Key=key)["Body"].read().decode())
tell("list", lambda: [o["Key"] for o in s3.list_objects_v2(Bucket="corpora", Prefix="corpus-7/")["Contents"]])
tell("put", lambda: s3.put_object(Bucket="corpora", Key="corpus-7/a", Body=b"x"))
"#;

fn documents() -> String {
    let scope = harness::world::deployed("aws/scope-s3-train-read.yaml").unwrap();
    format!(
        "{scope}\n---\nkind: Binding\nmetadata: {{name: train-s3}}\nspec: {{identities: [\"spiffe://example.org/train/*\"], scope: s3-train-read}}\n"
    )
}

#[tokio::test]
async fn a_fakecloud_session_of_the_broker_passes_the_deployed_trust_policy_and_reads_its_own_prefix() {
    let mut world = World::start(WorldOptions::default()).await.unwrap();
    let fake = FakeCloud::start(&cloud::account(&world.issuer, "s3-train-read").unwrap());
    let aws = format!(
        "[aws]\nregion = \"eu-central-1\"\nendpoint_url = \"{}\"\n[aws.revoker]\nrole = \"dayfly/revoker\"\n",
        fake.url()
    );
    world.add_to_broker(&aws).await.unwrap();
    world.apply(&documents()).await.unwrap();
    let uid = world.workload("/train/a").await.unwrap();

    let options = ["--scope", "s3-train-read", "--param", "dataset=corpus-7"];
    let said = under_run(&world, uid, &options, BOTO3).arg(fake.s3_url()).output().await;
    let said = said.unwrap_or_else(|error| panic!("{error:#}\n{}\n{:#?}", world.logs(), fake.asked()));
    let on = "on resource: arn:aws:s3:::corpora";
    assert_eq!(
        said,
        format!(
            "get corpus-7/a\n\
             get s3:GetObject {on}/corpus-8/a because no session policy allows the s3:GetObject action\n\
             list ['corpus-7/a']\n\
             put s3:PutObject {on}/corpus-7/a because no identity-based policy allows the s3:PutObject action\n"
        )
    );
    let lease = world.leases().await.unwrap().remove(0).lease_id;
    let who = format!("arn:aws:sts::{ACCOUNT}:assumed-role/s3-train-read-1/{lease}");
    assert!(fake.asked().iter().any(|asked| asked.who.as_ref() == Some(&who)), "{:#?}", fake.asked());
    // The program is over, so its session is denied, and a canary of the same role proves it.
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let leases = world.leases().await.unwrap();
        if leases.iter().any(|found| found.lease_id == lease && found.outcome == "verified") {
            break;
        }
        assert!(Instant::now() < deadline, "the session's end is not proven: {leases:#?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }

    // The answer is lost: a session exists that nobody holds, and the task gets none.
    fake.fault(Fault {
        action: "sts:AssumeRoleWithWebIdentity".into(),
        trouble: Trouble::LoseAnswer,
        times: None,
    });
    let refused = under_run(&world, uid, &options, BOTO3).arg(fake.s3_url()).finish().await.unwrap();
    assert!(!refused.stdout.contains("get corpus-7/a\n"), "{}", refused.stdout);
    let mut leases = world.leases().await.unwrap();
    leases.retain(|found| found.lease_id != lease);
    assert!(!leases.is_empty() && leases.iter().all(|lease| lease.outcome != "verified"), "{leases:?}");
}

/// What IAM and STS answer, as boto3 reads it: names and kinds, without the values.
const SHAPES: &str = r#"
import json, os, boto3, botocore.exceptions
at = dict(endpoint_url=os.environ["E"], region_name="us-east-1", aws_access_key_id=os.environ["K"],
    aws_secret_access_key=os.environ["S"], aws_session_token=os.environ["T"])
iam, sts = boto3.client("iam", **at), boto3.client("sts", **at)
deny = json.dumps({"Version": "2012-10-17", "Statement": [{"Sid": "Ended", "Effect": "Deny", "Action": "*", "Resource": "*"}]})
if os.environ["MAKE"]:
    trust = json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"AWS": "*"}}]})
    boundary = iam.create_policy(PolicyName="pool-boundary", PolicyDocument=deny)["Policy"]["Arn"]
    iam.create_role(RoleName="pool", Path="/dayfly/", AssumeRolePolicyDocument=trust, PermissionsBoundary=boundary, MaxSessionDuration=7200)
def shape(value):
    if isinstance(value, dict):
        return {name: shape(inner) for name, inner in sorted(value.items()) if name != "ResponseMetadata"}
    return [shape(value[0])] if isinstance(value, list) and value else type(value).__name__
def asked(call, **params):
    try:
        answer = call(**params)
        return [answer["ResponseMetadata"]["HTTPStatusCode"], shape(answer)]
    except botocore.exceptions.ClientError as refused:
        return [refused.response["ResponseMetadata"]["HTTPStatusCode"], refused.response["Error"]["Code"]]
policy = dict(RoleName="pool", PolicyName="ended")
told = {
    "put": asked(iam.put_role_policy, **policy, PolicyDocument=deny),
    "get": asked(iam.get_role_policy, **policy),
    "same": iam.get_role_policy(**policy)["PolicyDocument"] == json.loads(deny),
    "list": asked(iam.list_role_policies, RoleName="pool"),
    "attached": asked(iam.list_attached_role_policies, RoleName="pool"),
    "malformed": asked(iam.put_role_policy, **policy, PolicyDocument="{}"),
    "absent policy": asked(iam.get_role_policy, RoleName="pool", PolicyName="absent"),
    "absent role": asked(iam.get_role, RoleName="absent"),
    "absent role's policy": asked(iam.put_role_policy, RoleName="absent", PolicyName="x", PolicyDocument=deny),
    "deleted": asked(iam.delete_role_policy, **policy),
    "deleted again": asked(iam.delete_role_policy, **policy),
    "caller": asked(sts.get_caller_identity),
}
role = iam.get_role(RoleName="pool")["Role"]
told["role"] = {name: shape(role[name]) for name in ["Arn", "AssumeRolePolicyDocument", "CreateDate", "MaxSessionDuration", "Path", "PermissionsBoundary", "RoleId", "RoleName"]}
boundary = iam.get_policy(PolicyArn=role["PermissionsBoundary"]["PermissionsBoundaryArn"])["Policy"]
version = iam.get_policy_version(PolicyArn=boundary["Arn"], VersionId=boundary["DefaultVersionId"])["PolicyVersion"]
told["boundary"] = [boundary["Arn"].split(":")[-1], boundary["DefaultVersionId"], version["IsDefaultVersion"], version["Document"] == json.loads(deny)]
print(json.dumps(told))
"#;

async fn shapes(url: &str, keys: [&str; 3], make: &str) -> Value {
    let program = Python::find().unwrap().script(SHAPES).env("E", url).env("MAKE", make);
    let [key, secret, token] = keys;
    let said = program.env("K", key).env("S", secret).env("T", token).output().await.unwrap();
    serde_json::from_str(&said).unwrap()
}

#[tokio::test]
async fn the_fakecloud_answers_boto3_in_the_shape_that_moto_does() {
    let deny = json!({"Version": "2012-10-17", "Statement": [{"Sid": "Ended", "Effect": "Deny", "Action": "*", "Resource": "*"}]});
    let may =
        json!({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]});
    let trust = json!({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"AWS": ACCOUNT}}]});
    let seed = json!({"roles": [
        {"name": "pool", "path": "/dayfly/", "trust": trust, "boundary": deny, "max_session_duration": 7200},
        {"name": "admin", "trust": trust, "policies": {"all": may}},
    ]});
    let fake = FakeCloud::start(&serde_json::from_value(seed).unwrap());
    let keys = fake.session(&SessionAsk {
        role: "admin".into(),
        name: "a1".into(),
        seconds: 900,
        ..SessionAsk::default()
    });
    let ours = [&keys.access_key_id, &keys.secret_access_key, &keys.session_token].map(String::as_str);
    let told = shapes(&fake.url(), ours, "").await;
    let moto = Moto::start().await.unwrap();
    let theirs = shapes(&moto.url(), ["a", "b", "c"], "yes").await;
    assert_eq!(told, theirs);
}
