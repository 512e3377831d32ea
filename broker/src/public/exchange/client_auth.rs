//! Who the client is (draft-ietf-oauth-spiffe-client-auth): by the X.509-SVID of its connection, or by a JWT-SVID that it
//! sends along and that is taken once.
//!
//! A certificate is the better proof: nobody who sees a request can repeat it. A JWT-SVID is a bearer token, so it must
//! be for this issuer alone, fresh, and new to us.

use std::sync::Arc;

use dayfly_client::{JwtError, Peer, VerifiedJwt};
use dayfly_domain::caller::{Caller, Via};
use dayfly_domain::rules::Rules;
use dayfly_domain::secret::Secret;
use dayfly_domain::spiffe::SpiffeId;
use dayfly_domain::time::{Timestamp, Ttl};
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::caller::{CLOCK_SKEW, VerifyJwt, at, check_fresh, issued_at, spiffe_id};
use crate::store::{Store, StoreError};

/// Oldest client assertion that is taken. It bounds how long a thief of one may hope to be the first to bring it.
const ASSERTION_AGE: Ttl = Ttl::seconds(60);

/// Why a client is not known.
#[derive(Debug, Error)]
pub(super) enum ClientError {
    /// Neither certificate nor assertion.
    #[error("the client showed neither an X.509-SVID nor a JWT-SVID")]
    Nobody,
    /// The connection outlived the certificate it was opened with.
    #[error("the client certificate ran out while the connection stood")]
    PeerExpired,
    /// Not valid, or not for this issuer alone.
    #[error("the client assertion is not valid here")]
    Assertion(#[source] JwtError),
    /// Too old, from the future, or it does not say when it was issued.
    #[error(
        "the client assertion was issued more than {ASSERTION_AGE} ago, or in the future, or does not say when"
    )]
    Stale,
    /// Somebody brought it before.
    #[error("the client assertion of {0} was taken before")]
    Replayed(SpiffeId),
    /// The certificate, the assertion or `client_id` name different clients.
    #[error("{0} and {1} cannot both be the client")]
    Differ(SpiffeId, String),
    /// The identity fills no stage.
    #[error("{0} fills no stage")]
    NoStage(SpiffeId),
    /// What was taken could not be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// How a client shows who it is.
pub(super) struct Shown<'a> {
    /// The certificate of its connection.
    pub peer: Option<&'a Peer>,
    /// A JWT-SVID.
    pub assertion: Option<&'a Secret>,
    /// What it calls itself.
    pub client_id: Option<&'a str>,
}

/// Proves clients of one token endpoint.
pub(super) struct Clients {
    /// What verifies JWT-SVIDs, with the bundle of the subject's own trust domain.
    pub verifier: Arc<dyn VerifyJwt>,
    /// Where taken assertions are remembered.
    pub store: Arc<dyn Store>,
    /// The issuer behind the endpoint: the sole audience of every JWT-SVID that comes here.
    pub issuer: String,
    /// Oldest JWT-SVID that is taken as a subject token beside a proof of the client.
    pub subject_token_age: Ttl,
}

impl Clients {
    /// Who asks. An assertion that proves it is spent.
    pub(super) async fn prove(
        &self,
        rules: &Rules,
        shown: Shown<'_>,
        now: Timestamp,
    ) -> Result<Caller, ClientError> {
        let by_certificate = shown.peer.map(|peer| by_certificate(peer, now)).transpose()?;
        let by_assertion = match shown.assertion {
            Some(assertion) => Some(self.by_assertion(assertion, now).await?),
            None => None,
        };
        // The certificate is the stronger proof, so it is the one on record where both are shown.
        let proof = by_certificate.iter().chain(&by_assertion).next().ok_or(ClientError::Nobody)?;
        let id = &proof.spiffe_id;
        if let Some(other) = by_assertion.as_ref().filter(|other| other.spiffe_id != *id) {
            return Err(ClientError::Differ(id.clone(), other.spiffe_id.to_string()));
        }
        if let Some(other) = shown.client_id.filter(|other| *other != id.as_str()) {
            return Err(ClientError::Differ(id.clone(), other.chars().take(256).collect()));
        }
        let stage = rules.stage_of(id).ok_or_else(|| ClientError::NoStage(id.clone()))?;
        // The last of all: what is refused for another reason does not spend the assertion of its owner.
        if let (Some(assertion), Some(proof)) = (shown.assertion, &by_assertion) {
            let taken = self.store.take_assertion(digest(assertion), proof.expires_at, now).await?;
            if !taken {
                return Err(ClientError::Replayed(id.clone()));
            }
        }
        Ok(Caller {
            spiffe_id: id.clone(),
            stage,
            via: Via::Direct { serial: proof.serial.clone() },
            proof_expires_at: proof.expires_at,
        })
    }

    async fn by_assertion(&self, assertion: &Secret, now: Timestamp) -> Result<Proof, ClientError> {
        let verified = self.verify(assertion).await.map_err(ClientError::Assertion)?;
        if !is_fresh(assertion, ASSERTION_AGE, now) {
            return Err(ClientError::Stale);
        }
        let serial: String = digest(assertion).iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Proof {
            spiffe_id: spiffe_id(&verified.spiffe_id),
            serial: format!("jwt-svid:{serial}"),
            expires_at: at(verified.expires_at),
        })
    }

    /// Whether a subject token is a JWT-SVID of the client's own. The client is proven already, so it need not be new.
    pub(super) async fn is_own(
        &self,
        caller: &Caller,
        assertion: Option<&Secret>,
        subject: &Secret,
        now: Timestamp,
    ) -> Result<bool, JwtError> {
        if assertion.is_some_and(|one| one.equals(subject.expose())) {
            return Ok(true);
        }
        let verified = self.verify(subject).await?;
        let fresh = is_fresh(subject, self.subject_token_age, now);
        Ok(fresh && spiffe_id(&verified.spiffe_id) == caller.spiffe_id)
    }

    async fn verify(&self, token: &Secret) -> Result<VerifiedJwt, JwtError> {
        self.verifier.verify(token.expose(), &self.issuer).await
    }
}

/// A proven identity.
struct Proof {
    spiffe_id: SpiffeId,
    serial: String,
    expires_at: Timestamp,
}

fn by_certificate(peer: &Peer, now: Timestamp) -> Result<Proof, ClientError> {
    check_fresh(peer, now).map_err(|_| ClientError::PeerExpired)?;
    Ok(Proof {
        spiffe_id: spiffe_id(&peer.spiffe_id),
        serial: peer.serial.clone(),
        expires_at: at(peer.not_after),
    })
}

fn is_fresh(token: &Secret, age: Ttl, now: Timestamp) -> bool {
    issued_at(token.expose()).is_some_and(|issued| now <= issued + age && issued <= now + CLOCK_SKEW)
}

/// By what an assertion is known: what is signed in it. The signature is left out, for anybody can make a second valid
/// one from the first (ECDSA is malleable), and the assertion would look new.
fn digest(assertion: &Secret) -> [u8; 32] {
    let text = assertion.expose();
    Sha256::digest(text.rsplit_once('.').map_or(text, |(signed, _)| signed)).into()
}
