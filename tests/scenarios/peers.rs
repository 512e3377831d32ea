//! The peers themselves: each is the real thing and does what the other scenarios take for granted.

use std::time::Duration;

use harness::{
    Answers, Entry, Minio, Moto, Opa, Postgres, Python, Scratch, Spire, SpireOptions, StaticSite, TcpProxy,
    Uid, Vault, eventually, opa,
};
use serde_json::{Value, json};
use sqlx::Connection;

#[tokio::test]
async fn spire_tells_users_apart_and_outlives_a_restart() {
    let mut spire = Spire::start("example.org", SpireOptions::default()).await.unwrap();
    let (known, unknown) = (Uid::fresh(), Uid::fresh());
    let id = spire.id("/train");
    let entry = spire.create_entry(Entry::of_uid(&id, known)).await.unwrap();

    assert_eq!(spire.svids_of(known).await.unwrap(), std::slice::from_ref(&id));
    let refused = spire.svids_of(unknown).await.unwrap_err();
    assert!(refused.to_string().contains("no identity issued"), "{refused}");
    assert_eq!(claims(&spire.fetch_jwt(known, "somebody").await.unwrap())["sub"], id);
    assert_eq!(
        claims(&spire.mint_jwt(&id, &["a", "b"], Duration::from_secs(60)).await.unwrap())["aud"],
        json!(["a", "b"])
    );
    assert!(spire.mint_x509(&id, Duration::from_secs(60)).await.unwrap().join("svid.pem").is_file());

    spire.stop_agent().await.unwrap();
    spire.stop_server().await.unwrap();
    spire.restart().await.unwrap();
    spire.wait_for_svid(known, &id).await.unwrap();

    spire.delete_entry(&entry).await.unwrap();
    eventually("the end of the identity", Duration::from_secs(10), || async {
        spire.svids_of(known).await.err().ok_or("it is still given")
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn vault_takes_a_jwt_svid_and_a_revoked_accessor_ends_its_token() {
    let (spire, vault) = tokio::join!(Spire::start("example.org", SpireOptions::default()), Vault::start());
    let (spire, mut vault) = (spire.unwrap(), vault.unwrap());
    vault.enable_kv().await.unwrap();
    vault.enable_pki("leaf").await.unwrap();
    vault.write_policy("reader", r#"path "secret/data/*" { capabilities = ["read"] } path "pki/issue/leaf" { capabilities = ["update"] }"#).await.unwrap();
    vault.trust_jwt_svids("spiffe", &spire.bundle_jwks().await.unwrap()).await.unwrap();
    let id = spire.id("/broker");
    vault.write_jwt_role("spiffe", "broker", &id, "vault", &["reader"]).await.unwrap();

    let svid = spire.mint_jwt(&id, &["vault"], Duration::from_secs(60)).await.unwrap();
    let login = json!({ "role": "broker", "jwt": svid });
    let login = vault.api("POST", "auth/spiffe/login", login).await.unwrap();
    let (token, accessor) =
        (login["auth"]["client_token"].as_str().unwrap(), login["auth"]["accessor"].clone());
    let stranger = spire.mint_jwt(&spire.id("/other"), &["vault"], Duration::from_secs(60)).await.unwrap();
    let refused = vault
        .call("", "POST", "auth/spiffe/login", Some(json!({ "role": "broker", "jwt": stranger })))
        .await
        .unwrap();
    assert_eq!(refused.0, 400, "{refused:?}");

    let read = async || vault.call(token, "GET", "secret/data/harness/ready", None).await.unwrap().0;
    assert_eq!(read().await, 200);
    let leaf = json!({ "common_name": "a.example.org", "ttl": "5m" });
    let (status, leaf) = vault.call(token, "POST", "pki/issue/leaf", Some(leaf)).await.unwrap();
    assert_eq!(status, 200, "{leaf}");
    assert!(leaf["lease_id"].as_str().unwrap().starts_with("pki/issue/leaf/"));
    vault.api("POST", "auth/token/revoke-accessor", json!({ "accessor": accessor })).await.unwrap();
    assert_eq!(read().await, 403);
    assert!(std::fs::read_to_string(vault.audit_log()).unwrap().contains("revoke-accessor"));

    let status = vault.cli(["status", "-format=json"]).unwrap().output().await.unwrap();
    assert_eq!(serde_json::from_str::<Value>(&status).unwrap()["sealed"], false);
    vault.restart().await.unwrap();
    vault.api("GET", "secret/data/harness/ready", Value::Null).await.unwrap();
}

#[tokio::test]
async fn minio_checks_the_web_identity_and_enforces_the_session_policy() {
    let site = StaticSite::start().await.unwrap();
    let python = Python::find().unwrap();
    let made = python.script(WEB_IDENTITY).env("ISSUER", site.url()).output().await.unwrap();
    let made: Value = serde_json::from_str(&made).unwrap();
    site.put("/jwks", made["jwks"].clone());
    site.put(
        "/.well-known/openid-configuration",
        json!({
            "issuer": site.url(), "jwks_uri": format!("{}/jwks", site.url()),
            "authorization_endpoint": site.url(), "token_endpoint": site.url(),
            "response_types_supported": ["id_token"], "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
        }),
    );
    let minio =
        Minio::start(&format!("{}/.well-known/openid-configuration", site.url()), "minio").await.unwrap();
    minio
        .as_root("s3.create_bucket(Bucket='data')\nfor k in ('a/1','b/1'): s3.put_object(Bucket='data', Key=k, Body=b'x')")
        .await
        .unwrap();

    let mut outcomes = Vec::new();
    for token in ["good", "wrong_audience", "wrong_key"] {
        let user = python.script(ASSUME_AND_READ).env("ENDPOINT", minio.url()).env("ROLE", minio.role_arn());
        let outcome = user.env("TOKEN", made[token].as_str().unwrap()).output().await.unwrap();
        outcomes.push(outcome.trim().to_owned());
    }
    assert_eq!(outcomes[0], "a read, b AccessDenied");
    assert!(outcomes[1..].iter().all(|outcome| outcome.starts_with("refused")), "{outcomes:?}");
}

const WEB_IDENTITY: &str = r#"
import json, os, time
from joserfc import jwt
from joserfc.jwk import RSAKey
key, other = RSAKey.generate_key(2048, {"kid": "k", "alg": "RS256", "use": "sig"}), RSAKey.generate_key(2048, {"kid": "k"})
def token(key, aud):
    now = int(time.time())
    return jwt.encode({"alg": "RS256", "kid": "k"}, {"iss": os.environ["ISSUER"], "sub": "task", "aud": aud, "iat": now, "exp": now + 900}, key)
print(json.dumps({"jwks": {"keys": [key.as_dict(private=False)]}, "good": token(key, "minio"),
                  "wrong_audience": token(key, "else"), "wrong_key": token(other, "minio")}))
"#;

const ASSUME_AND_READ: &str = r#"
import boto3, botocore, json, os
from botocore.config import Config
at = dict(endpoint_url=os.environ["ENDPOINT"], region_name="us-east-1")
policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::data/a/*"}]}
sts = boto3.client("sts", config=Config(signature_version=botocore.UNSIGNED), **at)
try:
    got = sts.assume_role_with_web_identity(RoleArn=os.environ["ROLE"], RoleSessionName="task", DurationSeconds=900,
        WebIdentityToken=os.environ["TOKEN"], Policy=json.dumps(policy))["Credentials"]
except botocore.exceptions.ClientError as error:
    print("refused", error.response["Error"]["Code"])
    raise SystemExit
s3 = boto3.client("s3", aws_access_key_id=got["AccessKeyId"], aws_secret_access_key=got["SecretAccessKey"],
    aws_session_token=got["SessionToken"], **at)
def read(key):
    try:
        s3.get_object(Bucket="data", Key=key)
        return "read"
    except botocore.exceptions.ClientError as error:
        return error.response["Error"]["Code"]
print(f"a {read('a/1')}, b {read('b/1')}")
"#;

#[tokio::test]
async fn moto_answers_boto3() {
    let moto = Moto::start().await.unwrap();
    let script = "import boto3, os\nprint(boto3.client('sts', endpoint_url=os.environ['E'], region_name='us-east-1', \
        aws_access_key_id='a', aws_secret_access_key='b').get_caller_identity()['Account'])";
    let account = Python::find().unwrap().script(script).env("E", moto.url()).output().await.unwrap();
    assert_eq!(account.trim(), "123456789012");
}

#[tokio::test]
async fn opa_answers_a_batch_though_one_input_breaks_it() {
    let (opa, scratch) = (Opa::find().unwrap(), Scratch::new().unwrap());
    let policies = [scratch.file("p.rego", 0o644, POLICY).unwrap()];
    let inputs: Vec<Value> = (0..100).map(|n| json!({ "n": n })).collect();

    let answers = opa.answers(&policies, "data.p.size", &inputs).await.unwrap();
    assert_eq!(answers[41], opa::Answer::Value(json!("small")));
    assert!(matches!(&answers[42], opa::Answer::Error(why) if why.contains("conflict")), "{:?}", answers[42]);
    assert_eq!(answers[43], opa::Answer::Undefined);
    assert_eq!(answers[99], opa::Answer::Value(json!("big")));

    let tested = opa.test(&policies).await.unwrap();
    let failed: Vec<_> = tested.iter().filter(|test| test.fail).map(|test| test.name.as_str()).collect();
    assert_eq!((tested.len(), failed), (2, vec!["test_wrong"]));
    assert_eq!(opa.unformatted(&policies).await.unwrap(), policies);
}

const POLICY: &str = r#"package p

size := "small" if input.n <= 42
size := "big" if input.n == 42
size := "big" if input.n > 50

test_right if { size == "small" with input as {"n": 1} }
test_wrong if { size == "big" with input as {"n": 1} }
"#;

#[tokio::test]
async fn postgres_starts_empty() {
    let postgres = Postgres::start().await.unwrap();
    let url = postgres.create_database("empty").await.unwrap();
    let mut connection = sqlx::PgConnection::connect(&url).await.unwrap();
    let tables: i64 =
        sqlx::query_scalar("SELECT count(*) FROM information_schema.tables WHERE table_schema = 'public'")
            .fetch_one(&mut connection)
            .await
            .unwrap();
    assert_eq!(tables, 0);
}

#[tokio::test]
async fn the_proxy_loses_answers_while_requests_arrive() {
    let site = StaticSite::start().await.unwrap();
    site.put("/found", json!({ "found": true }));
    let proxy = TcpProxy::before(site.url().trim_start_matches("http://").parse().unwrap()).await.unwrap();
    let client = reqwest::Client::builder().timeout(Duration::from_secs(2)).build().unwrap();
    let get = async |path: &str| {
        client.get(format!("{}{path}", proxy.url())).send().await.map(|answer| answer.status())
    };

    assert_eq!(get("/found").await.unwrap(), 200);
    proxy.set(Answers::LostFor("GET /found".to_owned()));
    assert_eq!(get("/other").await.unwrap(), 404);
    get("/found").await.unwrap_err();
    proxy.set(Answers::Swallowed);
    assert!(get("/found").await.unwrap_err().is_timeout());
    assert!(proxy.lost() >= 2, "{}", proxy.lost());
    proxy.set(Answers::Refused);
    get("/found").await.unwrap_err();
    proxy.set(Answers::Pass);
    assert_eq!(get("/found").await.unwrap(), 200);
    assert!(proxy.connections() >= 4);
}

fn claims(token: &str) -> Value {
    use base64::Engine as _;
    let body = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(body).unwrap()).unwrap()
}
