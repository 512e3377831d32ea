//! Receipts: what was decided about an artifact, signed for whoever guards it. No credential; `dayfly_client::receipt`
//! checks them.

use std::sync::Arc;

use dayfly_domain::id::{RequestId, SessionId, TaskId};
use dayfly_domain::policy::Artifact;
use dayfly_domain::secret::Secret;
use dayfly_domain::spiffe::SpiffeId;
use dayfly_domain::time::{Timestamp, Ttl};
use serde::Serialize;
use thiserror::Error;

use crate::providers::token::{Actor, Confirmation, Reserved};
use crate::public::Issuers;
use crate::signer::{SignError, Signer, Use};

/// Longest life of a receipt. Guards learn of no end sooner.
pub const LONGEST_LIFE: Ttl = Ttl::minutes(1);
/// Longest receipt, in bytes. Common servers take no longer header line.
pub const MAX_RECEIPT: usize = 8 * 1024;

/// Signs receipts with a key of their own.
pub struct Receipts {
    signer: Arc<dyn Signer>,
    issuers: Issuers,
    reserved: Reserved,
    trust_domains: Vec<String>,
    dev: bool,
}

/// What was allowed, to whom, and until when.
#[derive(Debug)]
pub struct Allowed<'a> {
    /// The decision: the request it was made for.
    pub decision: RequestId,
    /// The workload that acts.
    pub subject: &'a SpiffeId,
    /// The guard.
    pub audience: &'a SpiffeId,
    /// The action.
    pub action: &'a str,
    /// What it acts on.
    pub artifact: &'a Artifact,
    /// Name of the scope that allowed it.
    pub scope: &'a str,
    /// The task.
    pub task: TaskId,
    /// Its session.
    pub session: SessionId,
    /// Who opened each task above, root first, this task's opener last.
    pub chain: &'a [SpiffeId],
    /// The moment of the decision.
    pub at: Timestamp,
    /// When the decision stops holding.
    pub until: Timestamp,
}

/// Why there is no receipt.
#[derive(Debug, Error)]
pub enum ReceiptError {
    /// Its guard is none that this broker makes receipts for.
    #[error("no receipt is made for this audience: {0}")]
    Audience(String),
    /// The chain above is too long for a header.
    #[error("the receipt would have {0} bytes, at most {MAX_RECEIPT} travel in a header")]
    TooLong(usize),
    /// The signer failed.
    #[error("the receipt could not be signed")]
    Sign(#[source] SignError),
}

/// Claims of a receipt, named as in access tokens where both have them.
#[derive(Debug, Serialize)]
struct ReceiptClaims<'a> {
    iss: &'a str,
    sub: &'a SpiffeId,
    aud: &'a SpiffeId,
    exp: i64,
    iat: i64,
    jti: RequestId,
    txn: SessionId,
    task: TaskId,
    cnf: Confirmation,
    #[serde(skip_serializing_if = "Option::is_none")]
    act: Option<Actor>,
    action: &'a str,
    artifact: &'a Artifact,
    scope: &'a str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    dev: bool,
}

impl Receipts {
    /// Signs with the receipt key, for guards of the accepted trust domains. `dev` marks those of a development one.
    pub fn new(
        signer: Arc<dyn Signer>,
        issuers: Issuers,
        reserved: Reserved,
        trust_domains: Vec<String>,
        dev: bool,
    ) -> Self {
        Self { signer, issuers, reserved, trust_domains, dev }
    }

    /// The guard that a text names, if receipts are made for it.
    ///
    /// # Errors
    /// It is no SPIFFE ID, of a trust domain that is not accepted, or kept for something else.
    pub fn audience(&self, text: &str) -> Result<SpiffeId, ReceiptError> {
        let guard: SpiffeId = text.parse().map_err(|error: dayfly_domain::spiffe::NotASpiffeId| {
            ReceiptError::Audience(error.to_string())
        })?;
        if !self.trust_domains.iter().any(|name| name == guard.trust_domain()) {
            let domain = guard.trust_domain();
            return Err(ReceiptError::Audience(format!("the trust domain {domain} is not accepted here")));
        }
        match self.reserved.fault(text) {
            None => Ok(guard),
            Some(problem) => Err(ReceiptError::Audience(problem)),
        }
    }

    /// The receipt of a decision that is on record.
    ///
    /// # Errors
    /// It would be too long, or the signer failed.
    pub async fn sign(&self, allowed: &Allowed<'_>) -> Result<Secret, ReceiptError> {
        let claims = ReceiptClaims {
            iss: self.issuers.url(Use::Receipt),
            sub: allowed.subject,
            aud: allowed.audience,
            exp: allowed.until.unix_seconds(),
            iat: allowed.at.unix_seconds(),
            jti: allowed.decision,
            txn: allowed.session,
            task: allowed.task,
            cnf: Confirmation { spiffe_id: allowed.subject.clone() },
            act: Actor::chain(allowed.chain, allowed.subject),
            action: allowed.action,
            artifact: allowed.artifact,
            scope: allowed.scope,
            dev: self.dev,
        };
        let body = serde_json::to_value(&claims).map_err(|source| ReceiptError::Sign(source.into()))?;
        let signed = self.signer.sign(Use::Receipt, Use::Receipt.typ(), &body).await;
        let receipt = Secret::new(signed.map_err(ReceiptError::Sign)?);
        let length = receipt.expose().len();
        if length > MAX_RECEIPT { Err(ReceiptError::TooLong(length)) } else { Ok(receipt) }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

    use std::time::{Duration, SystemTime};

    use dayfly_client::SpiffeId as PeerId;
    use dayfly_client::receipt::{ReceiptFault, ReceiptVerifier, Wanted};
    use serde_json::json;

    use super::*;
    use crate::providers::token::testkit::{NOW, TRAINER, World, id, offline, part};

    const GUARD: &str = "spiffe://example.org/guard/models";
    const WANTED: Wanted<'static> =
        Wanted { action: "load-model", name: "models/llama-3-8b", digest: Some("sha256:00") };

    fn receipts(world: &World, dev: bool) -> Receipts {
        let issuers = world.issuers.clone();
        let broker = id("spiffe://example.org/dayfly/broker");
        let reserved = Reserved::new(issuers.clone(), broker, ["spiffe://example.org/cloud".to_owned()]);
        Receipts::new(world.signer.clone(), issuers, reserved, vec!["example.org".to_owned()], dev)
    }

    async fn signed(receipts: &Receipts, chain: &[SpiffeId]) -> Result<String, ReceiptError> {
        let (subject, audience) = (id(TRAINER), receipts.audience(GUARD).unwrap());
        let artifact =
            Artifact { name: "models/llama-3-8b".to_owned(), digest: Some("sha256:00".to_owned()) };
        let task = TaskId::new(NOW, 2);
        let allowed = Allowed {
            decision: RequestId::new(NOW, 9),
            subject: &subject,
            audience: &audience,
            action: "load-model",
            artifact: &artifact,
            scope: "model-load",
            task,
            session: TaskId::new(NOW, 1).into(),
            chain,
            at: NOW,
            until: NOW + LONGEST_LIFE,
        };
        Ok(receipts.sign(&allowed).await?.expose().to_owned())
    }

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(NOW.unix_millis().unsigned_abs())
    }

    fn verifier(world: &World) -> ReceiptVerifier {
        let jwks = world.jwks(Use::Receipt).to_string();
        ReceiptVerifier::new(world.issuers.url(Use::Receipt), &jwks, PeerId::new(GUARD).unwrap()).unwrap()
    }

    #[tokio::test]
    async fn a_receipt_says_what_was_decided_and_a_guard_takes_it_from_its_workload_alone() {
        let world = World::new();
        let chain = [id("spiffe://example.org/inference/planner"), id(TRAINER)];
        let receipt = signed(&receipts(&world, true), &chain).await.unwrap();
        let header = part(&receipt, 0);
        assert_eq!((&header["typ"], &header["alg"]), (&json!(dayfly_client::receipt::TYP), &json!("ES256")));
        assert_eq!(
            part(&receipt, 1),
            json!({
                "iss": "https://issuer.example/receipt",
                "sub": TRAINER,
                "aud": GUARD,
                "iat": 1_800_000_000,
                "exp": 1_800_000_060,
                "jti": RequestId::new(NOW, 9),
                "txn": TaskId::new(NOW, 1),
                "task": TaskId::new(NOW, 2),
                "cnf": {"spiffe_id": TRAINER},
                "act": {"sub": "spiffe://example.org/inference/planner"},
                "action": "load-model",
                "artifact": {"name": "models/llama-3-8b", "digest": "sha256:00"},
                "scope": "model-load",
                "dev": true,
            })
        );
        let peer = PeerId::new(TRAINER).unwrap();
        let taken = verifier(&world).verify(&receipt, &peer, &WANTED, now()).unwrap();
        assert_eq!(taken.decision_id, RequestId::new(NOW, 9).to_string());
        assert_eq!(
            (taken.chain, taken.dev),
            (vec![PeerId::new("spiffe://example.org/inference/planner").unwrap()], true)
        );
        let thief = PeerId::new("spiffe://example.org/training/other").unwrap();
        assert_eq!(verifier(&world).verify(&receipt, &thief, &WANTED, now()), Err(ReceiptFault::Peer));
    }

    #[tokio::test]
    async fn no_other_token_of_the_broker_passes_for_a_receipt() {
        let world = World::new();
        let receipt = signed(&receipts(&world, false), &[]).await.unwrap();
        let peer = PeerId::new(TRAINER).unwrap();
        let told = |token: &str| verifier(&world).verify(token, &peer, &WANTED, now());
        assert!(told(&receipt).is_ok());
        let (_, access) = world.issue(&offline()).await;
        assert_eq!(told(&access), Err(ReceiptFault::Kind));
        // The very claims of a receipt, signed with the other keys.
        for other in [Use::Access, Use::Federation] {
            let forged = world.sign(other, &part(&receipt, 1)).await;
            assert_eq!(told(&forged), Err(ReceiptFault::Kind), "{other:?}");
            let keys = verifier(&world).update_jwks(&world.jwks(other).to_string());
            assert_eq!(keys.is_ok(), other == Use::Access, "an RSA key verifies no receipt");
        }
        // A guard that was given the access keys by mistake still takes no access token.
        let mistaken = verifier(&world);
        mistaken.update_jwks(&world.jwks(Use::Access).to_string()).unwrap();
        assert_eq!(mistaken.verify(&access, &peer, &WANTED, now()), Err(ReceiptFault::Kind));
    }

    #[tokio::test]
    async fn a_guard_is_a_workload_of_an_accepted_trust_domain() {
        let world = World::new();
        let receipts = receipts(&world, false);
        assert!(receipts.audience(GUARD).is_ok());
        for refused in [
            "",
            "models",
            "https://guard.example",
            "https://issuer.example/receipt",
            "spiffe://example.org",
            "spiffe://other.example/guard/models",
            "spiffe://example.org/dayfly/broker",
            "spiffe://example.org/cloud",
            "spiffe://example.org/guard/*",
        ] {
            let told = receipts.audience(refused);
            assert!(matches!(told, Err(ReceiptError::Audience(_))), "{refused}");
        }
        let long = vec![id(&format!("spiffe://example.org/{}", "a".repeat(1000))); 8];
        assert!(matches!(signed(&receipts, &long).await, Err(ReceiptError::TooLong(_))));
    }
}
