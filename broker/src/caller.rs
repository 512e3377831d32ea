//! Who asks: from the mTLS peer, and through a node agent from the workload's own JWT-SVID.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use dayfly_client::{Identity, JwtError, Peer, TrustDomain, VerifiedJwt};
use dayfly_domain::caller::{Caller, Via};
use dayfly_domain::rules::Rules;
use dayfly_domain::secret::Secret;
use dayfly_domain::spiffe::SpiffeId;
use dayfly_domain::stage::Stage;
use dayfly_domain::time::{Timestamp, Ttl};
use thiserror::Error;

/// Longest subject token that is looked at.
const MAX_TOKEN: usize = 16 * 1024;
/// How far the clock of the identity service may be ahead of ours.
pub(crate) const CLOCK_SKEW: Ttl = Ttl::seconds(30);

/// Why the caller could not be proven, or may not speak for whom it says.
#[derive(Debug, Error)]
pub enum CallerError {
    /// The connection outlived the peer's certificate.
    #[error("the SVID of {peer} ran out while the connection stood")]
    PeerExpired {
        /// The peer.
        peer: SpiffeId,
    },
    /// Only node agents speak for others.
    #[error("{peer} is no node agent, so it may not bring a subject token")]
    NotANode {
        /// The peer.
        peer: SpiffeId,
    },
    /// An agent speaks for a workload, never for itself.
    #[error("{peer} is a node agent and brought no subject token")]
    NoSubjectToken {
        /// The peer.
        peer: SpiffeId,
    },
    /// Not valid, or not for this broker through this agent alone.
    #[error("the subject token is not valid here")]
    SubjectToken {
        /// What is wrong with it.
        #[source]
        source: JwtError,
    },
    /// Longer than any JWT-SVID.
    #[error("the subject token is longer than {MAX_TOKEN} bytes")]
    SubjectTokenTooLong,
    /// Too old to yield a secret.
    #[error("the subject token was issued more than {limit} ago, or in the future, or does not say when")]
    SubjectTokenStale {
        /// The oldest that is taken.
        limit: Ttl,
    },
    /// The node's rule does not name this workload.
    #[error("node {node} may not speak for {workload}")]
    NotItsWorkload {
        /// The node.
        node: SpiffeId,
        /// The workload.
        workload: SpiffeId,
    },
    /// The identity fills no stage.
    #[error("{spiffe_id} fills no stage")]
    NoStage {
        /// The identity.
        spiffe_id: SpiffeId,
    },
    /// Admins and nodes never come through an agent.
    #[error("{spiffe_id} fills stage {stage}, which never comes through a node agent")]
    StageThroughAgent {
        /// The identity.
        spiffe_id: SpiffeId,
        /// Its stage.
        stage: Stage,
    },
}

impl CallerError {
    /// The stable code.
    pub fn reason(&self) -> &'static str {
        match self {
            CallerError::PeerExpired { .. } => "PEER_EXPIRED",
            CallerError::NotANode { .. } => "NOT_A_NODE",
            CallerError::NoSubjectToken { .. } => "SUBJECT_TOKEN_MISSING",
            CallerError::SubjectToken { source: JwtError::NoKeys { .. } } => "NO_BUNDLES",
            CallerError::SubjectToken { .. } | CallerError::SubjectTokenTooLong => "SUBJECT_TOKEN_INVALID",
            CallerError::SubjectTokenStale { .. } => "SUBJECT_TOKEN_STALE",
            CallerError::NotItsWorkload { .. } => "NODE_MAY_NOT_SPEAK_FOR",
            CallerError::NoStage { .. } => "IDENTITY_UNKNOWN",
            CallerError::StageThroughAgent { .. } => "STAGE_THROUGH_AGENT",
        }
    }
}

/// Verifies JWT-SVIDs offline.
#[async_trait]
pub trait VerifyJwt: Send + Sync {
    /// Checks signature, time, trust domain and sole audience.
    async fn verify(&self, token: &str, audience: &str) -> Result<VerifiedJwt, JwtError>;
}

/// The broker's own identity verifies with the bundles of its Workload API.
pub struct Bundles {
    /// The broker's identity.
    pub identity: Identity,
    /// The trust domains it accepts.
    pub accepted: Vec<TrustDomain>,
}

#[async_trait]
impl VerifyJwt for Bundles {
    async fn verify(&self, token: &str, audience: &str) -> Result<VerifiedJwt, JwtError> {
        self.identity.verify_jwt_svid(token, audience, &self.accepted).await
    }
}

/// Proves callers for one broker.
pub struct Callers {
    /// The broker's own SPIFFE ID: the first half of every audience.
    pub broker: SpiffeId,
    /// What verifies subject tokens.
    pub verifier: Arc<dyn VerifyJwt>,
    /// Oldest subject token that still yields a secret.
    pub subject_token_age: Ttl,
}

impl Callers {
    /// Who asks: the peer itself, or the workload whose token its agent brings.
    pub async fn prove(
        &self,
        rules: &Rules,
        peer: &Peer,
        subject_token: &Secret,
        now: Timestamp,
    ) -> Result<Caller, CallerError> {
        let id = spiffe_id(&peer.spiffe_id);
        check_fresh(peer, now)?;
        let is_node = rules.node(&id).is_some();
        match (is_node, subject_token.expose().is_empty()) {
            (false, true) => {
                let stage =
                    rules.stage_of(&id).ok_or_else(|| CallerError::NoStage { spiffe_id: id.clone() })?;
                let via = Via::Direct { serial: peer.serial.clone() };
                Ok(Caller { spiffe_id: id, stage, via, proof_expires_at: at(peer.not_after) })
            }
            (false, false) => Err(CallerError::NotANode { peer: id }),
            (true, true) => Err(CallerError::NoSubjectToken { peer: id }),
            (true, false) => self.prove_through_agent(rules, id, subject_token, now).await,
        }
    }

    async fn prove_through_agent(
        &self,
        rules: &Rules,
        node: SpiffeId,
        token: &Secret,
        now: Timestamp,
    ) -> Result<Caller, CallerError> {
        if token.expose().len() > MAX_TOKEN {
            return Err(CallerError::SubjectTokenTooLong);
        }
        let audience = format!("{}?via={node}", self.broker);
        let verified = self.verifier.verify(token.expose(), &audience).await;
        let verified = verified.map_err(|source| CallerError::SubjectToken { source })?;
        let within = |issued: Timestamp| now <= issued + self.subject_token_age && issued <= now + CLOCK_SKEW;
        if !issued_at(token.expose()).is_some_and(within) {
            return Err(CallerError::SubjectTokenStale { limit: self.subject_token_age });
        }
        let workload = spiffe_id(&verified.spiffe_id);
        let stage = admit_through(rules, &node, &workload)?;
        let proof_expires_at = at(verified.expires_at);
        Ok(Caller { spiffe_id: workload, stage, via: Via::Agent { node }, proof_expires_at })
    }
}

/// What the workload does, if the rules let this agent speak for it.
pub(crate) fn admit_through(
    rules: &Rules,
    node: &SpiffeId,
    workload: &SpiffeId,
) -> Result<Stage, CallerError> {
    let Some(rule) = rules.node(node) else { return Err(CallerError::NotANode { peer: node.clone() }) };
    let unknown = || CallerError::NoStage { spiffe_id: workload.clone() };
    let stage = rules.stage_of(workload).ok_or_else(unknown)?;
    if !stage.holds_target_scopes() {
        return Err(CallerError::StageThroughAgent { spiffe_id: workload.clone(), stage });
    }
    if !rule.speaks_for(workload) {
        return Err(CallerError::NotItsWorkload { node: node.clone(), workload: workload.clone() });
    }
    Ok(stage)
}

/// The peer's certificate still holds. Asked on every call, since a connection outlives its handshake.
pub fn check_fresh(peer: &Peer, now: Timestamp) -> Result<(), CallerError> {
    let moment = SystemTime::UNIX_EPOCH + Duration::from_millis(now.unix_millis().unsigned_abs());
    if peer.is_fresh(moment) {
        Ok(())
    } else {
        Err(CallerError::PeerExpired { peer: spiffe_id(&peer.spiffe_id) })
    }
}

/// The library's SPIFFE ID in the domain's type.
pub fn spiffe_id(id: &dayfly_client::SpiffeId) -> SpiffeId {
    id.to_string().parse().expect("a verified SVID names a workload with a legal SPIFFE ID")
}

/// The library's moment in the domain's type.
pub(crate) fn at(moment: SystemTime) -> Timestamp {
    let since = moment.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_unix_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// The `iat` of a token whose signature was just verified. A token without one is taken for stale.
pub(crate) fn issued_at(token: &str) -> Option<Timestamp> {
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    let claims: serde_json::Value = serde_json::from_slice(&payload).ok()?;
    claims.get("iat")?.as_i64().map(Timestamp::from_unix_seconds)
}
