//! Says whether an access token is still good (RFC 7662): from the lease row, and to the token's own audience alone.

mod http_api;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use async_trait::async_trait;
use dayfly_domain::id::LeaseId;
use dayfly_domain::lease::{Lease, LeaseState};
use dayfly_domain::scope::Scope;
use dayfly_domain::spiffe::SpiffeId;
use dayfly_domain::time::Timestamp;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tracing::{debug, error};

use super::Issuers;
use crate::providers::token::{self, AccessClaims, Target};
use crate::signer::{Signer, Use};
use crate::store::{LeaseRow, StoreError};

pub use self::http_api::serve;

/// What introspection reads of the broker's state.
#[async_trait]
pub trait Ledger: Send + Sync {
    /// The present moment.
    fn now(&self) -> Timestamp;

    /// A scope, as it stands now.
    fn scope(&self, name: &str) -> Option<Arc<Scope>>;

    /// Whether a kill cuts off the lease, whatever its row says still.
    fn is_cut_off(&self, lease: &Lease) -> bool;

    /// A lease, from the store: a copy in memory would be late.
    async fn lease(&self, id: LeaseId) -> Result<Option<LeaseRow>, StoreError>;
}

/// Decides what a service is told about a token.
pub struct Introspector {
    ledger: Arc<dyn Ledger>,
    signer: Arc<dyn Signer>,
    issuers: Issuers,
    metrics: IntrospectionMetrics,
}

impl Introspector {
    /// Answers about the tokens of these issuers.
    pub fn new(
        ledger: Arc<dyn Ledger>,
        signer: Arc<dyn Signer>,
        issuers: Issuers,
        metrics: IntrospectionMetrics,
    ) -> Self {
        Self { ledger, signer, issuers, metrics }
    }

    /// The answer to one question (RFC 7662 §2.2). Whatever is not good for the one who asks is `{"active":false}`, and
    /// nothing else: not why, not whose.
    ///
    /// # Errors
    /// The store did not answer. Nobody may take that for either answer.
    pub async fn answer(&self, service: &SpiffeId, token: &str) -> Result<Value, StoreError> {
        let verdict = self.judge(service, token).await?;
        let active = verdict.is_some();
        self.metrics.answers.get_or_create(&ByActive { active: if active { "true" } else { "false" } }).inc();
        Ok(match verdict {
            Some(claims) => {
                let mut answer = serde_json::to_value(claims).expect("claims were read from JSON");
                answer["active"] = json!(true);
                answer
            }
            None => json!({"active": false}),
        })
    }

    async fn judge(&self, service: &SpiffeId, token: &str) -> Result<Option<AccessClaims>, StoreError> {
        let Some((claims, lease)) = self.live(service, token).await? else { return Ok(None) };
        if !self.may_ask(service, &claims, &lease) {
            debug!(%service, lease_id = %lease.id, "inactive for this service");
            return Ok(None);
        }
        Ok(Some(claims))
    }

    /// A token of ours with its lease, if it is good now. Whom it is for is left to the caller.
    ///
    /// # Errors
    /// The store did not answer. Nobody may take that for either answer.
    pub(super) async fn live(
        &self,
        shown_by: &SpiffeId,
        token: &str,
    ) -> Result<Option<(AccessClaims, Lease)>, StoreError> {
        let (issuer, jwks) = (self.issuers.url(Use::Access), self.signer.jwks(Use::Access));
        let now = self.ledger.now();
        let claims = match token::verify_for_anyone(token, &jwks, issuer, now) {
            Ok(claims) => claims,
            Err(fault) => {
                if fault.is_forged() {
                    self.alarm(shown_by, None, "its claims are none that this broker signs");
                }
                debug!(%shown_by, reason = %fault, "inactive");
                return Ok(None);
            }
        };
        let row = self.ledger.lease(claims.jti).await?;
        let Some(lease) = row.map(|row| row.lease).filter(|lease| lease.provider == token::NAME) else {
            self.alarm(shown_by, Some(&claims), "no lease knows it");
            return Ok(None);
        };
        let LeaseState::Active { expires_at, handle } = &lease.state else {
            debug!(%shown_by, lease_id = %lease.id, state = lease.state.name(), "inactive");
            return Ok(None);
        };
        if self.ledger.is_cut_off(&lease) {
            debug!(%shown_by, lease_id = %lease.id, "inactive: cut off");
            return Ok(None);
        }
        if *handle != token::handle(lease.id, token) {
            self.alarm(shown_by, Some(&claims), "its lease was given another token");
            return Ok(None);
        }
        Ok((now < *expires_at).then_some((claims, lease)))
    }

    /// A service may ask about tokens for itself; where the audience is a URL, the scope says who answers at it.
    fn may_ask(&self, service: &SpiffeId, claims: &AccessClaims, lease: &Lease) -> bool {
        if claims.aud == service.as_str() {
            return true;
        }
        let scope = self.ledger.scope(&lease.scope);
        let target = scope.and_then(|scope| Target::read(scope.target.tree()).ok());
        // A scope that was turned to another audience since says nothing about this token's.
        target.is_some_and(|target| target.audience == claims.aud && target.may_ask(service))
    }

    /// Only a holder of our access key can have made this. Or the database was set back to before the token was given.
    fn alarm(&self, service: &SpiffeId, claims: Option<&AccessClaims>, why: &str) {
        self.metrics.forged.inc();
        error!(
            alarm = "forged_token",
            shown_by = %service,
            lease_id = claims.map(|claims| claims.jti.to_string()),
            spiffe_id = claims.map(|claims| claims.sub.as_str()),
            audience = claims.map(|claims| claims.aud.as_str()),
            "a token was forged with our key: {why}. Replace the access key, unless the database was restored"
        );
    }
}

/// Figures of introspection.
#[derive(Clone, Debug, Default)]
pub struct IntrospectionMetrics {
    answers: Family<ByActive, Counter>,
    forged: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByActive {
    active: &'static str,
}

impl IntrospectionMetrics {
    /// Names the figures in a registry.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("introspections", "Answers of introspection", self.answers.clone());
        registry.register(
            "forged_tokens",
            "Tokens that our access key signed and no lease knows: any is an alarm",
            self.forged.clone(),
        );
    }

    /// How many forged tokens were shown.
    pub fn forged(&self) -> u64 {
        self.forged.get()
    }
}
