//! The `token` provider: access tokens of our own (RFC 9068), for one service each. Needs no outside server.

mod audience;
mod claims;
mod target;
mod verify;

#[cfg(test)]
pub(crate) mod testkit;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use dayfly_domain::id::LeaseId;
use dayfly_domain::lease::{Handle, Lease, LeaseState};
use dayfly_domain::policy::Narrowing;
use dayfly_domain::scope::{Promise, Revocability, Scope};
use dayfly_domain::secret::Secret;
use dayfly_domain::template::TemplateFault;
use dayfly_domain::time::{Timestamp, Ttl};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{Credential, IssueError, Issued, Order, Provider, Renewal, Revocation, RevokeError};
use crate::public::Issuers;
use crate::signer::{SignError, Signer, Use};

pub use self::audience::Reserved;
pub use self::claims::{AccessClaims, Actor, Confirmation};
use self::target::TAGS;
pub use self::target::{Checked, Target};
pub(crate) use self::verify::verify_for_anyone;
pub use self::verify::{TokenFault, verify_access};

/// The provider's name.
pub const NAME: &str = "token";
/// Longest life of an access token. Offline verifiers learn of an end no sooner.
pub const LONGEST_LIFE: Ttl = Ttl::minutes(5);
/// Longest token, in bytes. Common servers take no longer header line.
pub const MAX_TOKEN: usize = 8 * 1024;

/// How this broker gives access tokens.
pub struct TokenProvider {
    signer: Arc<dyn Signer>,
    issuers: Issuers,
    reserved: Reserved,
    options: TokenOptions,
}

/// What the configuration says about access tokens.
#[derive(Clone, Copy, Debug)]
pub struct TokenOptions {
    /// Whether the trust domain is for development; tokens then say `dev`.
    pub dev: bool,
    /// Whether this broker serves introspection. Without it a scope can only be `checked: offline`.
    pub introspection: bool,
}

impl TokenProvider {
    /// A provider that signs with the access key.
    pub fn new(signer: Arc<dyn Signer>, issuers: Issuers, reserved: Reserved, options: TokenOptions) -> Self {
        Self { signer, issuers, reserved, options }
    }
}

#[async_trait]
impl Provider for TokenProvider {
    fn name(&self) -> &'static str {
        NAME
    }

    fn check_scope(&self, scope: &Scope) -> Vec<TemplateFault> {
        let fault = |path: &str, problem: String| TemplateFault { path: path.to_owned(), problem };
        let tree = scope.target.tree();
        let target = Target::read(tree);
        let mut faults = Vec::new();
        let audience = tree["audience"].as_str();
        faults
            .extend(audience.and_then(|a| self.reserved.fault(a)).map(|problem| fault("audience", problem)));
        match target {
            Err(told) => faults.extend(told),
            Ok(target) if target.checked == Checked::Introspect && !self.options.introspection => {
                let problem = "this broker serves no introspection; set introspection.listen, or use offline";
                faults.push(fault("checked", problem.to_owned()));
            }
            Ok(_) => {}
        }
        if scope.ttl.max > LONGEST_LIFE {
            let problem =
                format!("spec.ttl.max is {}; an access token lives at most {LONGEST_LIFE}", scope.ttl.max);
            faults.push(fault("", problem));
        }
        faults
    }

    async fn probe_scope(&self, _: &Scope) -> Vec<TemplateFault> {
        // There is no target to ask: the broker itself honours the scope.
        Vec::new()
    }

    fn promise(&self, scope: &Scope) -> Promise {
        match Target::read(scope.target.tree()) {
            Ok(target) if target.checked == Checked::Introspect => {
                Promise::of(scope, Revocability::Exact, Ttl::ZERO)
            }
            // What cannot be read is promised nothing.
            Ok(_) | Err(_) => Promise::of(scope, Revocability::ExpiryOnly, scope.ttl.max.min(LONGEST_LIFE)),
        }
    }

    fn is_local(&self) -> bool {
        true
    }

    fn residue(&self, _: &Scope, ttl: Ttl) -> Ttl {
        ttl.min(LONGEST_LIFE)
    }

    fn can_narrow(&self, target: &Value, narrowing: &Narrowing) -> Result<(), String> {
        if !narrowing.deny_statements.is_empty() {
            return Err("a policy sets deny statements; an access token has no session policy".to_owned());
        }
        match target["claims"].get(TAGS) {
            Some(_) if !narrowing.tags.is_empty() => {
                Err(format!("a policy sets tags, and the scope has a claim {TAGS:?} of its own"))
            }
            _ => Ok(()),
        }
    }

    async fn issue(&self, order: &Order<'_>) -> Result<Issued, IssueError> {
        let refuse = |what: String| IssueError::Refuse { provider: NAME, what, source: None };
        let target = Target::read(order.target).map_err(|faults| {
            let told: Vec<String> =
                faults.iter().map(|fault| format!("{}: {}", fault.path, fault.problem)).collect();
            refuse(format!("the scope's target is faulty: {}", told.join("; ")))
        })?;
        self.can_narrow(order.target, order.narrowing).map_err(refuse)?;
        let mut claims = target.claims;
        if !order.narrowing.tags.is_empty() {
            claims.get_or_insert_default().insert(TAGS.to_owned(), json!(order.narrowing.tags));
        }
        let iat = order.now.unix_seconds();
        let exp = (order.now + order.ttl.min(LONGEST_LIFE)).unix_seconds();
        if exp <= iat {
            return Err(refuse("less than a second of the task is left".to_owned()));
        }
        let claims = AccessClaims {
            iss: self.issuers.url(Use::Access).to_owned(),
            sub: order.subject.clone(),
            aud: target.audience,
            exp,
            iat,
            jti: order.lease,
            client_id: order.subject.clone(),
            txn: order.session,
            task: order.task,
            cnf: Confirmation { spiffe_id: order.subject.clone() },
            act: Actor::chain(order.chain, order.subject),
            scope: target.scope,
            dayfly: claims,
            dev: self.options.dev,
        };
        let body = serde_json::to_value(&claims).map_err(SignError::from)?;
        let signed = self.signer.sign(Use::Access, Use::Access.typ(), &body).await;
        let token = Secret::new(signed?);
        if token.expose().len() > MAX_TOKEN {
            let what = format!(
                "the token would have {} bytes, at most {MAX_TOKEN} travel in a header: nest fewer tasks, or give the \
                 scope fewer claims",
                token.expose().len()
            );
            return Err(refuse(what));
        }
        let handle = handle(order.lease, token.expose());
        Ok(Issued {
            credential: Credential::Token { access_token: token, audience: claims.aud },
            expires_at: Timestamp::from_unix_seconds(exp),
            handle,
        })
    }

    fn renewal(&self, _: &Scope) -> Renewal {
        Renewal::Reissue
    }

    async fn extend(&self, _: &Lease, _: &Scope, _: Ttl, _: Timestamp) -> Result<Timestamp, IssueError> {
        let what = "a signed token has one end; ask for a new one".to_owned();
        Err(IssueError::Refuse { provider: NAME, what, source: None })
    }

    fn settled_by_lease(&self) -> Option<&'static str> {
        Some(
            "our own decision point: introspection answers from the lease row, inactive since its revocation was \
             asked for",
        )
    }

    async fn revoke(&self, lease: &Lease, now: Timestamp) -> Result<Revocation, RevokeError> {
        // The promise was made when the token went out, so it counts, not what the scope says today.
        if lease.promise.revocability != Revocability::Exact {
            return Ok(Revocation::RunsOut);
        }
        match &lease.state {
            LeaseState::Revoking { requested_at, .. } => Ok(Revocation::Verified {
                evidence: format!(
                    "our own decision point: introspection answers from the lease row, inactive since {requested_at}, \
                     looked at {now}"
                ),
            }),
            LeaseState::Pending { .. } | LeaseState::Active { .. } | LeaseState::Ended { .. } => {
                Err(RevokeError {
                    provider: NAME,
                    what: format!(
                        "the lease row is {}; introspection is not told to refuse it",
                        lease.state.name()
                    ),
                    source: None,
                })
            }
        }
    }
}

/// What the lease row keeps of a token: its id, and a digest of what was signed, so that introspection knows this very
/// token. The signature is left out: anybody can make a second valid one from the first (ECDSA is malleable).
pub(crate) fn handle(lease: LeaseId, token: &str) -> Handle {
    let signed = token.rsplit_once('.').map_or(token, |(signed, _)| signed);
    Handle(json!({"jti": lease, "sha256": URL_SAFE_NO_PAD.encode(Sha256::digest(signed))}))
}
