//! The `aws` provider: sessions of AWS STS, and of services that speak like it, for a JWT of our own federation issuer.
//!
//! No AWS credential is needed to ask, so the broker has none. AWS has no call that ends a session. Where a revoker is
//! configured, [`deny`] ends it by a document that denies it; else a lease ends when it runs out.

mod assertion;
mod client;
mod config;
mod deny;
mod errors;
mod escapes;
mod minter;
mod narrow;
mod policy;
mod target;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use aws_sdk_sts::config::Credentials;
use aws_sdk_sts::operation::assume_role_with_web_identity::AssumeRoleWithWebIdentityOutput;
use dayfly_domain::aws_deny::RevokeWhen;
use dayfly_domain::id::{LeaseId, TaskId};
use dayfly_domain::lease::{Handle, Lease, LeaseState};
use dayfly_domain::policy::Narrowing;
use dayfly_domain::scope::{Promise, Revocability, Scope};
use dayfly_domain::secret::Secret;
use dayfly_domain::template::TemplateFault;
use dayfly_domain::time::{Timestamp, Ttl};
use serde_json::{Value, json};

use self::assertion::Assertion;
pub use self::assertion::LIFE as ASSERTION_LIFE;
pub use self::config::{
    AwsConfig, AwsConfigError, DEFAULT_AUDIENCE, DEFAULT_PROPAGATION, DEFAULT_TIMEOUT, RevokerConfig,
};
use self::deny::{CLOCK_SKEW, Denier, RoleArn, SessionAsk};
pub use self::deny::{DenyCounts, DenyParts};
use self::errors::{CallError, Outcome};
use self::minter::{Minter, Wanted};
use self::target::{SHORTEST_SESSION, Target};
use super::{BoxError, Credential, IssueError, Issued, Order, Provider, Renewal, Revocation, RevokeError};
use crate::clock::Clock;
use crate::public::Issuers;
use crate::signer::{Signer, Use};
use crate::store::StoreError;
use crate::store::slots::Place;

/// Its key under `spec.target`.
pub const NAME: &str = "aws";

/// Gives AWS sessions that may do what a scope's session policy says, and no more.
pub struct AwsProvider {
    /// Whether STS is a test's or a laptop's.
    is_plain: bool,
    minter: Arc<Minter>,
    clock: Clock,
    denier: Option<Denier>,
}

/// Where a session is to be, and under which name it is denied.
enum Seat {
    /// A role whose sessions run out.
    Plain(String),
    /// A role whose sessions are denied.
    Deniable(Place),
}

impl Seat {
    fn role(&self) -> &str {
        match self {
            Seat::Plain(role) => role,
            Seat::Deniable(place) => &place.role,
        }
    }

    fn slot(&self) -> Option<String> {
        match self {
            Seat::Plain(_) => None,
            Seat::Deniable(place) => Some(place.slot.to_string()),
        }
    }
}

impl AwsProvider {
    /// Sets up the connection; asks nothing yet.
    ///
    /// # Errors
    /// A configuration that cannot be used.
    pub fn new(
        config: &AwsConfig,
        issuers: &Issuers,
        signer: Arc<dyn Signer>,
    ) -> Result<Self, AwsConfigError> {
        config.check(issuers)?;
        let minter = Arc::new(Minter::new(config, issuers, signer)?);
        Ok(Self { is_plain: config.is_plain(), minter, clock: Clock::default(), denier: None })
    }

    /// Ends sessions, if the configuration names who may.
    ///
    /// # Errors
    /// A configuration that cannot be used.
    pub fn denying(mut self, config: &AwsConfig, parts: DenyParts) -> Result<Self, AwsConfigError> {
        if let Some(revoker) = &config.revoker {
            self.denier = Some(Denier::new(config, revoker, Arc::clone(&self.minter), parts)?);
        }
        Ok(self)
    }

    /// Looks after the deny documents of an earlier life.
    ///
    /// # Errors
    /// The store failed.
    pub async fn start(&self) -> Result<(), StoreError> {
        match &self.denier {
            Some(denier) => denier.start().await,
            None => Ok(()),
        }
    }

    /// The audience of our assertions: no access token may ever have it.
    pub fn audience(&self) -> &str {
        self.minter.audience()
    }

    /// A place for the session. A role that is not AWS's own knows no tags, and no revoker.
    async fn seat(&self, order: &Order<'_>, target: &Target) -> Result<Seat, IssueError> {
        let first = target.roles.first().cloned().unwrap_or_default();
        match &self.denier {
            Some(denier) if first.parse::<RoleArn>().is_ok() => {
                let ask = SessionAsk {
                    lease: order.lease,
                    tree: order.session,
                    revoke_when: target.revoke,
                    roles: target.roles.clone(),
                    ttl: order.ttl.max(SHORTEST_SESSION),
                };
                denier.reserve(ask).await.map(Seat::Deniable)
            }
            _ => Ok(Seat::Plain(first)),
        }
    }

    /// What became of the session's place.
    async fn leave(
        &self,
        order: &Order<'_>,
        seat: &Seat,
        asked: Timestamp,
        issued: &Result<Issued, IssueError>,
    ) {
        let (Some(denier), Seat::Deniable(place)) = (&self.denier, seat) else { return };
        match issued {
            Ok(issued) => denier.settle(order.lease, place, asked, issued.expires_at).await,
            Err(
                IssueError::Refuse { .. }
                | IssueError::Unreach { .. }
                | IssueError::Full { .. }
                | IssueError::Unsigned(_),
            ) => {
                denier.release(order.lease).await;
            }
            // Nobody holds it, and it may exist: its lease is being given up.
            Err(IssueError::Unresolved { .. }) => denier.deny_soon(&place.role),
            // It is taken back by its handle.
            Err(IssueError::Misconfigured { .. }) => {}
        }
    }

    /// Takes the answer apart and compares it with what was asked.
    fn accept(
        &self,
        order: &Order<'_>,
        target: Target,
        seat: &Seat,
        asked: Timestamp,
        answer: AssumeRoleWithWebIdentityOutput,
    ) -> Result<Issued, IssueError> {
        let role_arn = seat.role();
        let unreadable = |what| CallError::Unreadable(what).of_issue(role_arn);
        let credentials = answer.credentials.ok_or_else(|| unreadable("it holds no credentials"))?;
        let given = [&credentials.access_key_id, &credentials.secret_access_key, &credentials.session_token];
        let complete = given.iter().all(|part| !part.is_empty());
        let credential = Credential::Aws {
            access_key_id: Secret::new(credentials.access_key_id),
            secret_access_key: Secret::new(credentials.secret_access_key),
            session_token: Secret::new(credentials.session_token),
            region: target.region,
        };
        if !complete {
            return Err(CallError::Unreadable("a part of the credentials is empty").of_issue(role_arn));
        }
        let expires_at = Timestamp::from_unix_seconds(credentials.expiration.secs());
        let user = answer.assumed_role_user.as_ref();
        let mut handle = json!({
            "role_arn": role_arn,
            "session_name": order.lease,
            "assumed_role_id": user.map(|user| &user.assumed_role_id),
        });
        if let Some(slot) = seat.slot() {
            handle["slot"] = json!(slot);
            handle["revoke"] = json!(target.revoke.to_string());
        }
        let handle = Handle(handle);
        let misconfigured = |what: String| {
            Err(IssueError::Misconfigured { provider: NAME, what, handle: handle.clone(), expires_at })
        };
        if let Some(source) = answer.source_identity.filter(|source| *source != order.lease.to_string()) {
            return misconfigured(format!(
                "the session has the source identity {source:?} instead of the lease's id"
            ));
        }
        if expires_at <= order.now || expires_at > order.now + self.residue(order.scope, order.ttl) {
            return misconfigured(format!(
                "the session lasts until {expires_at}, which was not asked for; compare the clocks of the broker and of STS"
            ));
        }
        // A deny document tells sessions by the second they were issued at, so that must be known.
        let issued_at = expires_at - order.ttl.max(SHORTEST_SESSION);
        let (earliest, latest) = (asked - CLOCK_SKEW, self.clock.now() + CLOCK_SKEW);
        if seat.slot().is_some() && !(earliest..=latest).contains(&issued_at) {
            return misconfigured(format!(
                "the session was issued at {issued_at} by the clock of STS, more than {CLOCK_SKEW} off; set the broker's"
            ));
        }
        if let Some(percent) = answer.session_token_utilization.filter(|percent| *percent >= 90) {
            tracing::warn!(
                scope = order.scope.name,
                percent,
                "the session policy nearly fills AWS's session token"
            );
        }
        Ok(Issued { credential, expires_at, handle })
    }
}

#[async_trait]
impl Provider for AwsProvider {
    fn name(&self) -> &'static str {
        NAME
    }

    fn check_scope(&self, scope: &Scope) -> Vec<TemplateFault> {
        target::check(scope)
    }

    /// Asks with an assertion that has run out, for a session that may do nothing. The refusal shows that STS is there and
    /// checks what it is given; it cannot show that the role would be given, for AWS has no such question.
    async fn probe_scope(&self, scope: &Scope) -> Vec<TemplateFault> {
        let fault = |path: &str, problem: String| vec![TemplateFault { path: path.to_owned(), problem }];
        let roles = target::all_roles(scope);
        let Some(role_arn) = roles.first() else { return Vec::new() };
        let now = self.clock.now();
        let claims = Assertion {
            issuer: self.minter.issuer(Use::Federation),
            audience: self.minter.audience(),
            subject: "spiffe://probe.invalid/probe",
            role_arn,
            lease: LeaseId::new(now, 0),
            task: TaskId::new(now, 0),
            scope: &scope.name,
            slot: None,
            tags: &BTreeMap::new(),
            now,
        }
        .expired()
        .expect("the subject is short");
        let wanted = Wanted {
            role_arn,
            session_name: "dayfly-probe",
            policy: r#"{"Version":"2012-10-17","Statement":[{"Effect":"Deny","Action":"*","Resource":"*"}]}"#,
            seconds: seconds(SHORTEST_SESSION),
        };
        let assertion = match self.minter.sign(Use::Federation, &claims).await {
            Ok(assertion) => assertion,
            Err(error) => return fault("", error.to_string()),
        };
        let found = match self.minter.trade(&assertion, wanted).await {
            Ok(_) if self.is_plain => {
                tracing::warn!(
                    "the STS on this machine took an assertion that had run out: it checks nothing"
                );
                Vec::new()
            }
            Ok(_) => fault("", "STS took an assertion that had run out: it checks nothing".to_owned()),
            Err(error) if error.says_unknown_issuer() => {
                let issuer = self.minter.issuer(Use::Federation);
                fault("role_arn", format!("the role's account has no OIDC provider for {issuer}"))
            }
            Err(error) => match error.outcome() {
                Outcome::Refused => Vec::new(),
                Outcome::NeverHeard | Outcome::Unknown => {
                    fault("", format!("STS of {} is out of reach: {error}", self.minter.region()))
                }
            },
        };
        let Some(denier) = self.denier.as_ref().filter(|_| found.is_empty()) else { return found };
        // Of each role that is AWS's own: whether the revoker could end what is issued there.
        for role in roles.iter().filter(|role| role.parse::<RoleArn>().is_ok()) {
            if let Err(problem) = denier.try_role(role).await {
                return fault("role_arn", format!("{role}: {problem}"));
            }
        }
        found
    }

    fn promise(&self, scope: &Scope) -> Promise {
        let session = scope.ttl.max.max(SHORTEST_SESSION);
        let are_aws = target::all_roles(scope).iter().all(|role| role.parse::<RoleArn>().is_ok());
        let ends = self.denier.as_ref().filter(|_| are_aws).map(Denier::worst_case);
        match (ends, target::revoke_when(scope)) {
            (Some(ends), RevokeWhen::Always) => Promise::of(scope, Revocability::Deny, ends.min(session)),
            (Some(ends), RevokeWhen::IfRemaining(left)) => {
                Promise::of(scope, Revocability::Deny, ends.max(left).min(session))
            }
            (Some(_), RevokeWhen::AdminOnly) | (None, _) => {
                Promise::of(scope, Revocability::ExpiryOnly, session)
            }
        }
    }

    /// A request can be held up on its way for as long as its assertion lives, and the session begins when STS acts on it.
    fn residue(&self, _scope: &Scope, ttl: Ttl) -> Ttl {
        Ttl::millis(ttl.max(SHORTEST_SESSION).as_millis().saturating_add(ASSERTION_LIFE.as_millis()))
    }

    fn can_narrow(&self, target: &Value, narrowing: &Narrowing) -> Result<(), String> {
        narrow::check(&target["session_policy"], narrowing)
    }

    async fn issue(&self, order: &Order<'_>) -> Result<Issued, IssueError> {
        let refuse =
            |what: String, source: Option<BoxError>| IssueError::Refuse { provider: NAME, what, source };
        let target = Target::read(order.target)
            .map_err(|fault| refuse(format!("spec.target.aws.{}: {}", fault.path, fault.problem), None))?;
        self.can_narrow(order.target, order.narrowing).map_err(|problem| refuse(problem, None))?;
        let policy = narrow::policy(&order.target["session_policy"], &order.narrowing.deny_statements)
            .map_err(|problem| refuse(problem, None))?;
        let asked = self.clock.now();
        let seat = self.seat(order, &target).await?;
        let slot = seat.slot();
        let claims = Assertion {
            issuer: self.minter.issuer(Use::Federation),
            audience: self.minter.audience(),
            subject: order.subject.as_str(),
            role_arn: seat.role(),
            lease: order.lease,
            task: order.task,
            scope: &order.scope.name,
            slot: slot.as_deref(),
            tags: &order.narrowing.tags,
            now: order.now,
        };
        let assertion = match claims.claims() {
            Ok(claims) => self.minter.sign(Use::Federation, &claims).await.map_err(IssueError::from),
            Err(error) => Err(refuse(error.to_string(), None)),
        };
        let session_name = order.lease.to_string();
        let wanted = Wanted {
            role_arn: seat.role(),
            session_name: &session_name,
            policy: &policy,
            seconds: seconds(order.ttl.max(SHORTEST_SESSION)),
        };
        let issued = match assertion {
            Ok(assertion) => match self.minter.trade(&assertion, wanted).await {
                Ok(answer) => self.accept(order, target, &seat, asked, answer),
                Err(error) => Err(error.of_issue(seat.role())),
            },
            Err(error) => Err(error),
        };
        self.leave(order, &seat, asked, &issued).await;
        issued
    }

    fn renewal(&self, _scope: &Scope) -> Renewal {
        Renewal::Reissue
    }

    async fn extend(&self, _: &Lease, _: &Scope, _: Ttl, _: Timestamp) -> Result<Timestamp, IssueError> {
        Err(IssueError::Refuse {
            provider: NAME,
            what: "a session cannot be lengthened; a new one is issued".to_owned(),
            source: None,
        })
    }

    async fn revoke(&self, lease: &Lease, _: Timestamp) -> Result<Revocation, RevokeError> {
        match &self.denier {
            Some(denier) if is_denied(lease) => denier.revoke(lease).await,
            _ => Ok(Revocation::RunsOut),
        }
    }
}

/// Whether a lease's session is one to be denied: it has a slot, and its scope wants it.
fn is_denied(lease: &Lease) -> bool {
    let LeaseState::Revoking { requested_at, cause, handle: Some(Handle(handle)), bound, .. } = &lease.state
    else {
        return false;
    };
    let when: Option<RevokeWhen> = handle["revoke"].as_str().and_then(|text| text.parse().ok());
    handle["slot"].is_string() && when.is_some_and(|when| when.wants(*cause, requested_at.until(*bound)))
}

/// The session of an answer, for the broker's own use.
fn session_of(answer: AssumeRoleWithWebIdentityOutput) -> Result<(Credentials, Timestamp), CallError> {
    let given = answer.credentials.ok_or(CallError::Unreadable("it holds no credentials"))?;
    let until = Timestamp::from_unix_seconds(given.expiration.secs());
    let token = Some(given.session_token);
    Ok((Credentials::new(given.access_key_id, given.secret_access_key, token, None, "dayfly"), until))
}

/// As STS takes it. A scope gives at most 12 hours, so it always fits.
fn seconds(ttl: Ttl) -> i32 {
    i32::try_from(ttl.as_seconds()).unwrap_or(i32::MAX)
}
