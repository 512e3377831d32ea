//! From a Rego policy that an admin applies to what a session of AWS can and cannot do, through a whole broker.

use std::time::{Duration, SystemTime};

use dayfly_broker::providers::Credential;
use dayfly_client::BrokerClient;
use dayfly_domain::secret::Secret;
use dayfly_proto::v1;
use serde_json::json;

use crate::world::{ADMIN, Setup, World as Site, reason, scope};
use crate::{AUDIENCE, WORKLOAD, World, file};

/// The documents: the scope of `deploy/aws` on MinIO's role, for an hour.
fn documents(role_arn: &str) -> String {
    let scope = file("scope-s3-train-read.yaml")
        .replace("arn:aws:iam::111122223333:role/dayfly/pool/s3-train-read-1", role_arn)
        .replace("        - \"arn:aws:iam::111122223333:role/dayfly/pool/s3-train-read-2\"\n", "")
        .replace("ttl: {default: 15m, max: 1h}", "ttl: {default: 1h, max: 1h}");
    assert!(
        scope.contains(role_arn) && !scope.contains("111122223333") && scope.contains("default: 1h"),
        "{scope}"
    );
    format!(
        "kind: Stage\nmetadata: {{name: training}}\nspec: {{patterns: [\"spiffe://example.org/training/**\"]}}\n---\n\
         {scope}\n---\nkind: Binding\nmetadata: {{name: train-read}}\nspec: {{identities: [\"{WORKLOAD}\"], \
         scope: s3-train-read, via: direct, parameters: {{dataset: [corpus-7]}}}}\n"
    )
}

fn policy(decision: &str) -> String {
    format!(
        r#"
kind: Policy
metadata: {{name: quarantine}}
spec:
  scopes: [s3-train-read]
  modules:
    quarantine.rego: |
      package dayfly.quarantine
      decision := {decision}
    quarantine_test.rego: |
      package dayfly.quarantine_test
      test_it if is_boolean(data.dayfly.quarantine.decision.allow)
"#
    )
}

const NO_OBJECTS: &str = r#"{"allow": true, "narrow": {"max_ttl": 1200, "deny_statements": [{"Sid": "Quarantine", "Effect": "Deny", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::corpora/*"}]}}"#;

/// The workload with its own task.
struct Trainer {
    client: BrokerClient,
    task: v1::OpenTaskResponse,
}

/// What came of a request: the lease, the credential, and how long it lives.
struct Given {
    lease: String,
    credential: Credential,
    lives: Duration,
}

impl Trainer {
    async fn issue(&self) -> Result<Given, tonic::Status> {
        let request = v1::IssueCredentialRequest {
            task_id: self.task.task_id.clone(),
            task_key: self.task.task_key.clone(),
            scope: Some(scope("s3-train-read", &[("dataset", "corpus-7")])),
            ..Default::default()
        };
        let issued = self.client.credentials().issue_credential(request).await?.into_inner();
        let Some(v1::issue_credential_response::Credential::Aws(session)) = issued.credential else {
            panic!("a session was asked for");
        };
        Ok(given(issued.lease_id, session, issued.expires_at))
    }

    async fn renew(&self, lease: &str) -> Result<Given, tonic::Status> {
        let request = v1::RenewLeaseRequest {
            task_id: self.task.task_id.clone(),
            task_key: self.task.task_key.clone(),
            lease_id: lease.to_owned(),
            ..Default::default()
        };
        let renewed = self.client.credentials().renew_lease(request).await?.into_inner();
        let Some(v1::renew_lease_response::Credential::Aws(session)) = renewed.credential else {
            panic!("a renewal of a session is another session");
        };
        Ok(given(renewed.lease_id, session, renewed.expires_at))
    }
}

fn given(lease: String, session: v1::AwsCredential, ends: Option<prost_types::Timestamp>) -> Given {
    let ends = SystemTime::try_from(ends.expect("an end")).expect("after 1970");
    Given {
        lease,
        credential: Credential::Aws {
            access_key_id: Secret::new(session.access_key_id),
            secret_access_key: Secret::new(session.secret_access_key),
            session_token: Secret::new(session.session_token),
            region: session.region,
        },
        lives: ends.duration_since(SystemTime::now()).expect("it lives"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_policy_in_rego_takes_away_is_gone_from_the_session_and_from_its_renewal() {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys");
    let world = World::with_keys(&keys).await;
    let issuer = format!("url = \"{}\"", world.issuers.base());
    let aws = format!(
        "[aws]\nregion = \"eu-central-1\"\nendpoint_url = \"{}\"\naudience = \"{AUDIENCE}\"\n",
        world.minio.url()
    );
    let limits = "stream_grace = \"5m\"\ndirect_task = \"2h\"";
    let setup = Setup { issuer: &issuer, sections: &aws, keys: Some(&keys), limits, ..Setup::default() };
    let mut site = Site::set_up(setup).await;
    site.apply(&documents(world.minio.role_arn())).await;
    let client = site.connect(WORKLOAD).await;
    let ceiling = vec![scope("s3-train-read", &[("dataset", "corpus-7")])];
    let open = v1::OpenTaskRequest { ceiling, ..Default::default() };
    let task = client.credentials().open_task(open).await.unwrap().into_inner();
    let trainer = Trainer { client, task };
    let seen = async |given: &Given| {
        let seen = world.use_session(&given.credential).await;
        (seen["get corpus-7/a"].clone(), seen["list corpus-7/"].clone())
    };

    let whole = trainer.issue().await.unwrap();
    assert!(whole.lives > Duration::from_secs(3_500), "{:?}", whole.lives);
    assert_eq!(seen(&whole).await, (json!("ok"), json!("ok")));

    site.apply(&policy(NO_OBJECTS)).await;
    for narrowed in [trainer.issue().await.unwrap(), trainer.renew(&whole.lease).await.unwrap()] {
        assert_ne!(narrowed.lease, whole.lease);
        assert!(narrowed.lives <= Duration::from_secs(1_200), "{:?}", narrowed.lives);
        assert!(narrowed.lives > Duration::from_secs(1_100), "{:?}", narrowed.lives);
        assert_eq!(seen(&narrowed).await, (json!("AccessDenied"), json!("ok")));
    }
    // What was renewed is on its way out, as far as AWS takes anything back.
    let admin = site.connect(ADMIN).await;
    let request = v1::GetLeaseRequest { lease_id: whole.lease.clone() };
    let lease = admin.admin().get_lease(request).await.unwrap().into_inner().lease.unwrap();
    assert_eq!(lease.state, "revoking");

    // What no session can carry is refused: a life that is too short, a statement that would allow.
    let narrowed = trainer.issue().await.unwrap();
    site.apply(&policy(r#"{"allow": true, "narrow": {"max_ttl": 600}}"#)).await;
    assert_eq!(reason(trainer.issue().await.map(|_| ())), "POLICY_CANNOT_NARROW");
    assert_eq!(reason(trainer.renew(&narrowed.lease).await.map(|_| ())), "POLICY_CANNOT_NARROW");
    site.apply(&policy(r#"{"allow": false, "reasons": ["corpora are in quarantine"]}"#)).await;
    let refused = trainer.issue().await.map(|_| ()).unwrap_err();
    assert!(refused.message().contains("corpora are in quarantine"), "{refused:?}");
    assert_eq!(reason::<()>(Err(refused)), "POLICY_DENIED");
}
