//! An account with the files of `deploy/aws`, an issuer, and a revoker.

use std::collections::BTreeMap;
use std::time::SystemTime;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use aws_sdk_sts::config::retry::RetryConfig;
use aws_sdk_sts::config::{BehaviorVersion, Credentials, Region};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use dayfly_fakecloud::{FakeCloud, Keys, ProviderSeed, RoleSeed, Seed, SessionAsk};
use serde_json::{Value, json};

use crate::client::Caller;

pub(crate) const ISSUER: &str = "https://issuer.example.com/federation";
pub(crate) const ROLE: &str = "s3-train-read";
pub(crate) const ROLE_ARN: &str = "arn:aws:iam::111122223333:role/dayfly/s3-train-read";

/// The session policy of a task that reads one set.
pub(crate) const READS_7: &str = r#"{"Version":"2012-10-17","Statement":[
    {"Effect":"Allow","Action":"s3:GetObject","Resource":"arn:aws:s3:::corpora/corpus-7/*"},
    {"Effect":"Allow","Action":"s3:ListBucket","Resource":"arn:aws:s3:::corpora","Condition":{"StringLike":{"s3:prefix":"corpus-7/*"}}}]}"#;

pub(crate) struct World {
    pub(crate) cloud: FakeCloud,
    key: EcdsaKeyPair,
}

fn deployed(name: &str) -> Value {
    let path = format!("{}/../deploy/aws/{name}", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// May write the pool's inline policies, and read them. Its boundary says the same.
fn revoker() -> RoleSeed {
    let may = json!({"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Action": "iam:PutRolePolicy", "Resource": "arn:aws:iam::111122223333:role/dayfly/*",
         "Condition": {"StringLike": {"iam:PermissionsBoundary": "arn:aws:iam::111122223333:policy/s3-*"}}},
        {"Effect": "Allow", "Action": ["iam:GetRolePolicy", "iam:GetRole", "iam:List*"],
         "Resource": "arn:aws:iam::111122223333:role/dayfly/*"},
        {"Effect": "Allow", "Action": ["iam:GetPolicy", "iam:GetPolicyVersion"], "Resource": "*"},
    ]});
    RoleSeed {
        name: "revoker".into(),
        path: "/".into(),
        trust: deployed("role-trust-policy.json"),
        policies: BTreeMap::from([("permissions".to_owned(), may.clone())]),
        attached: BTreeMap::new(),
        boundary: Some(may),
        max_session_duration: 3600,
    }
}

fn pool_role() -> RoleSeed {
    RoleSeed {
        name: ROLE.into(),
        path: "/dayfly/".into(),
        trust: deployed("role-trust-policy.json"),
        policies: BTreeMap::new(),
        attached: BTreeMap::from([("s3-train-read".to_owned(), deployed("permissions-policy.json"))]),
        boundary: Some("s3-train-read".into()),
        max_session_duration: 3600,
    }
}

pub(crate) fn now() -> i64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs().try_into().unwrap()
}

pub(crate) fn new_key() -> EcdsaKeyPair {
    EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap()
}

pub(crate) fn jwks(key: &EcdsaKeyPair) -> Value {
    let point = key.public_key().as_ref();
    let part = |from: usize| URL_SAFE_NO_PAD.encode(&point[from..from + 32]);
    json!({"keys": [{"kty": "EC", "crv": "P-256", "kid": "k1", "alg": "ES256", "x": part(1), "y": part(33)}]})
}

pub(crate) fn sign(key: &EcdsaKeyPair, claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(&json!({"alg": "ES256", "kid": "k1"})), part(claims));
    let signature = key.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// What the broker says of one lease.
pub(crate) fn claims() -> Value {
    json!({
        "iss": ISSUER, "sub": "spiffe://example.org/training/job-42", "aud": "sts.amazonaws.com",
        "iat": now(), "exp": now() + 120,
        "https://aws.amazon.com/tags": {
            "principal_tags": {"dayfly-scope": [ROLE], "dayfly-task": ["t1"], "dayfly-slot": ["aB3"]},
            "transitive_tag_keys": ["dayfly-slot"],
        },
        "https://aws.amazon.com/source_identity": "lease-1",
        "https://aws.amazon.com/roles": [ROLE_ARN],
    })
}

impl World {
    pub(crate) fn new() -> Self {
        let key = new_key();
        let provider = ProviderSeed {
            url: ISSUER.into(),
            client_ids: vec!["sts.amazonaws.com".into()],
            jwks: Some(jwks(&key)),
        };
        let objects = ["corpus-7/a", "corpus-8/a"].map(|key| (key.to_owned(), format!("text of {key}")));
        let seed = Seed {
            providers: vec![provider],
            roles: vec![pool_role(), revoker()],
            buckets: BTreeMap::from([("corpora".to_owned(), BTreeMap::from(objects))]),
        };
        Self { cloud: FakeCloud::start(&seed), key }
    }

    pub(crate) fn sign(&self, claims: &Value) -> String {
        sign(&self.key, claims)
    }

    /// AWS's own client, signing as a session or not at all.
    pub(crate) fn sts(&self, keys: Option<&Keys>) -> aws_sdk_sts::Client {
        let mut config = aws_sdk_sts::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("eu-central-1"))
            .endpoint_url(self.cloud.url())
            .http_client(aws_smithy_http_client::Builder::new().build_http())
            .retry_config(RetryConfig::disabled());
        if let Some(Keys { access_key_id, secret_access_key, session_token }) = keys {
            let token = Some(session_token.clone());
            config.set_credentials_provider(Some(aws_sdk_sts::config::SharedCredentialsProvider::new(
                Credentials::new(access_key_id, secret_access_key, token, None, "test"),
            )));
        }
        aws_sdk_sts::Client::from_conf(config.build())
    }

    /// Trades a token with these claims.
    pub(crate) async fn assume(&self, claims: &Value, policy: &str) -> Keys {
        let call =
            self.sts(None).assume_role_with_web_identity().role_arn(ROLE_ARN).role_session_name("lease-1");
        let call = call.web_identity_token(self.sign(claims)).policy(policy).duration_seconds(900);
        let answer = call.send().await.unwrap_or_else(|error| panic!("{error:?}"));
        let given = answer.credentials.unwrap();
        Keys {
            access_key_id: given.access_key_id,
            secret_access_key: given.secret_access_key,
            session_token: given.session_token,
        }
    }

    /// A session of the pool's role in this slot, without STS.
    pub(crate) fn in_slot(&self, slot: &str) -> Caller {
        self.caller(&self.cloud.session(&SessionAsk {
            role: ROLE.into(),
            name: "lease".into(),
            tags: BTreeMap::from([("dayfly-slot".to_owned(), slot.to_owned())]),
            seconds: 900,
            ..SessionAsk::default()
        }))
    }

    /// A session of the revoker.
    pub(crate) fn revoker(&self) -> Caller {
        let ask =
            SessionAsk { role: "revoker".into(), name: "r1".into(), seconds: 900, ..SessionAsk::default() };
        self.caller(&self.cloud.session(&ask))
    }

    pub(crate) fn caller(&self, keys: &Keys) -> Caller {
        Caller::new(self.cloud.url(), keys.clone())
    }
}
