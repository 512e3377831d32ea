//! From a Rego policy that an admin applies to what Vault knows of the token, through a whole broker.

use std::time::Duration;

use dayfly_client::BrokerClient;
use dayfly_proto::v1;
use harness::eventually;
use serde_json::{Value, json};

use crate::world::{Setup, World as Site, reason, scope};
use crate::{WORKLOAD, World, file};

fn documents() -> String {
    format!(
        "kind: Stage\nmetadata: {{name: retrieval}}\nspec: {{patterns: [\"spiffe://example.org/retrieval/**\"]}}\n---\n\
         {}\n---\nkind: Binding\nmetadata: {{name: ranker-reads}}\nspec: {{identities: [\"{WORKLOAD}\"], scope: kb-read, \
         via: direct, start: root}}\n",
        file("scope-kb-read.yaml")
    )
}

fn policy(decision: &str) -> String {
    format!(
        r#"
kind: Policy
metadata: {{name: short-reads}}
spec:
  scopes: [kb-read]
  modules:
    reads.rego: |
      package dayfly.short_reads
      decision := {decision}
    reads_test.rego: |
      package dayfly.short_reads_test
      test_it if is_boolean(data.dayfly.short_reads.decision.allow)
"#
    )
}

/// The workload with its own task.
struct Ranker {
    client: BrokerClient,
    task: v1::OpenTaskResponse,
}

impl Ranker {
    /// The lease and the token.
    async fn issue(&self) -> Result<(String, String), tonic::Status> {
        let request = v1::IssueCredentialRequest {
            task_id: self.task.task_id.clone(),
            task_key: self.task.task_key.clone(),
            scope: Some(scope("kb-read", &[])),
            ..Default::default()
        };
        let issued = self.client.credentials().issue_credential(request).await?.into_inner();
        match issued.credential {
            Some(v1::issue_credential_response::Credential::Vault(given)) => {
                Ok((issued.lease_id, given.token))
            }
            other => panic!("a token of Vault was asked for: {other:?}"),
        }
    }

    /// The lease, and another token if there is one.
    async fn renew(&self, lease: &str) -> Result<(String, Option<String>), tonic::Status> {
        let request = v1::RenewLeaseRequest {
            task_id: self.task.task_id.clone(),
            task_key: self.task.task_key.clone(),
            lease_id: lease.to_owned(),
            ..Default::default()
        };
        let renewed = self.client.credentials().renew_lease(request).await?.into_inner();
        let token = match renewed.credential {
            Some(v1::renew_lease_response::Credential::Vault(given)) => Some(given.token),
            None => None,
            other => panic!("a token of Vault was asked for: {other:?}"),
        };
        Ok((renewed.lease_id, token))
    }
}

impl World {
    /// What Vault tells root of a token; `None` if there is none.
    async fn told_of(&self, token: &str) -> Option<Value> {
        let body = Some(json!({"token": token}));
        let asked = self.vault.call(self.vault.root_token(), "POST", "auth/token/lookup", body);
        let (status, mut answer) = asked.await.unwrap();
        (status == 200).then(|| answer["data"].take())
    }

    async fn is_gone(&self, token: &str) {
        let gone = || async { self.told_of(token).await.map_or(Ok(()), Err) };
        eventually("the end of a token", Duration::from_secs(20), gone).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_policy_in_rego_takes_away_holds_at_vault_and_what_it_cannot_hold_is_not_issued() {
    let world = World::new().await;
    let vault = format!("[vault]\naddress = \"{}\"\naudience = \"vault\"\n", world.vault.url());
    let authority = Some(world.authority.clone());
    let limits = "stream_grace = \"5m\"";
    let mut site = Site::set_up(Setup { sections: &vault, authority, limits, ..Setup::default() }).await;
    site.apply(&documents()).await;
    let client = site.connect(WORKLOAD).await;
    let open = v1::OpenTaskRequest { ceiling: vec![scope("kb-read", &[])], ..Default::default() };
    let task = client.credentials().open_task(open).await.unwrap().into_inner();
    let ranker = Ranker { client, task };

    let (lease, token) = ranker.issue().await.unwrap();
    assert_eq!(ranker.renew(&lease).await.unwrap(), (lease.clone(), None), "the same token lives on");
    let ttl = world.told_of(&token).await.unwrap()["ttl"].as_u64().unwrap();
    assert!((250..=300).contains(&ttl), "{ttl}");

    // Shorter from the next renewal on, and from the first moment of what is new.
    site.apply(&policy(r#"{"allow": true, "narrow": {"max_ttl": 20}}"#)).await;
    assert_eq!(ranker.renew(&lease).await.unwrap(), (lease.clone(), None));
    let (_, short) = ranker.issue().await.unwrap();
    for token in [&token, &short] {
        let ttl = world.told_of(token).await.unwrap()["ttl"].as_u64().unwrap();
        assert!((1..=20).contains(&ttl), "{ttl}");
    }

    // What must be in the token is not in the one that is out: another takes its place.
    site.apply(&policy(r#"{"allow": true, "narrow": {"max_ttl": 60, "tags": {"team": "data"}}}"#)).await;
    let (renewed, tagged) = ranker.renew(&lease).await.unwrap();
    let tagged = tagged.expect("another token");
    assert_ne!(renewed, lease);
    assert_eq!(world.told_of(&tagged).await.unwrap()["meta"]["team"], "data");
    world.is_gone(&token).await;

    // A token has no session policy. Nothing is issued, and what is out is taken back.
    let denies = r#"{"allow": true, "narrow": {"deny_statements": [{"Effect": "Deny", "Action": "*", "Resource": "*"}]}}"#;
    site.apply(&policy(denies)).await;
    let before = world.accessors().await;
    assert_eq!(reason(ranker.issue().await), "POLICY_CANNOT_NARROW");
    assert_eq!(reason(ranker.renew(&renewed).await), "POLICY_CANNOT_NARROW");
    world.is_gone(&tagged).await;
    let after = world.accessors().await;
    assert!(after.is_subset(&before), "{after:?} against {before:?}");

    site.apply(&policy(r#"{"allow": false, "reasons": ["the knowledge base is closed"]}"#)).await;
    assert_eq!(reason(ranker.issue().await), "POLICY_DENIED");
}
