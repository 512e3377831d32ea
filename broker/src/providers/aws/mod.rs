//! The `aws` provider: sessions of AWS STS, and of services that speak like it, for a JWT of our own federation issuer.
//!
//! No AWS credential is needed to ask, so the broker has none. AWS cannot end a session: a lease ends when it runs out.

mod assertion;
mod client;
mod config;
mod errors;
mod escapes;
mod narrow;
mod policy;
mod target;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use aws_sdk_sts::operation::assume_role_with_web_identity::AssumeRoleWithWebIdentityOutput;
use dayfly_domain::id::{LeaseId, TaskId};
use dayfly_domain::lease::{Handle, Lease};
use dayfly_domain::policy::Narrowing;
use dayfly_domain::scope::{Promise, Revocability, Scope};
use dayfly_domain::secret::Secret;
use dayfly_domain::spiffe::SpiffeId;
use dayfly_domain::template::TemplateFault;
use dayfly_domain::time::{Timestamp, Ttl};
use serde_json::{Value, json};

use self::assertion::Assertion;
pub use self::assertion::LIFE as ASSERTION_LIFE;
use self::client::{Ask, Sts};
pub use self::config::{AwsConfig, AwsConfigError, DEFAULT_AUDIENCE, DEFAULT_TIMEOUT};
use self::errors::{CallError, Outcome};
use self::target::{SHORTEST_SESSION, Target};
use super::{BoxError, Credential, IssueError, Issued, Order, Provider, Renewal, Revocation, RevokeError};
use crate::clock::Clock;
use crate::public::Issuers;
use crate::signer::{Signer, Use};

/// Its key under `spec.target`.
pub const NAME: &str = "aws";

/// Gives AWS sessions that may do what a scope's session policy says, and no more.
pub struct AwsProvider {
    issuer: String,
    audience: String,
    region: String,
    /// Whether STS is a test's or a laptop's.
    is_plain: bool,
    sts: Sts,
    signer: Arc<dyn Signer>,
    clock: Clock,
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
        Ok(Self {
            issuer: issuers.url(Use::Federation).to_owned(),
            audience: config.audience.clone(),
            region: config.region.clone(),
            is_plain: config.is_plain(),
            sts: Sts::new(config)?,
            signer,
            clock: Clock::default(),
        })
    }

    /// The audience of our assertions: no access token may ever have it.
    pub fn audience(&self) -> &str {
        &self.audience
    }

    async fn sign(&self, claims: &Value) -> Result<Secret, IssueError> {
        let signed = self.signer.sign(Use::Federation, Use::Federation.typ(), claims).await;
        Ok(Secret::new(signed?))
    }

    /// Takes the answer apart and compares it with what was asked.
    fn accept(
        &self,
        order: &Order<'_>,
        target: Target,
        answer: AssumeRoleWithWebIdentityOutput,
    ) -> Result<Issued, IssueError> {
        let unreadable = |what| CallError::Unreadable(what).of_issue(&target.role_arn);
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
            return Err(
                CallError::Unreadable("a part of the credentials is empty").of_issue(&target.role_arn)
            );
        }
        let expires_at = Timestamp::from_unix_seconds(credentials.expiration.secs());
        let user = answer.assumed_role_user.as_ref();
        let handle = Handle(json!({
            "role_arn": target.role_arn,
            "session_name": order.lease,
            "assumed_role_id": user.map(|user| &user.assumed_role_id),
        }));
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
        let Some(role_arn) = target::some_role(scope) else { return Vec::new() };
        let now = self.clock.now();
        let subject: SpiffeId = "spiffe://probe.invalid/probe".parse().expect("a SPIFFE ID");
        let claims = Assertion {
            issuer: &self.issuer,
            audience: &self.audience,
            subject: &subject,
            role_arn: &role_arn,
            lease: LeaseId::new(now, 0),
            task: TaskId::new(now, 0),
            scope: &scope.name,
            tags: &BTreeMap::new(),
            now,
        }
        .expired()
        .expect("the subject is short");
        let assertion = match self.sign(&claims).await {
            Ok(assertion) => assertion,
            Err(error) => return fault("", error.to_string()),
        };
        let ask = Ask {
            role_arn: &role_arn,
            session_name: "dayfly-probe",
            assertion: assertion.expose(),
            policy: r#"{"Version":"2012-10-17","Statement":[{"Effect":"Deny","Action":"*","Resource":"*"}]}"#,
            seconds: seconds(SHORTEST_SESSION),
        };
        match self.sts.assume(ask).await {
            Ok(_) if self.is_plain => {
                tracing::warn!(
                    "the STS on this machine took an assertion that had run out: it checks nothing"
                );
                Vec::new()
            }
            Ok(_) => fault("", "STS took an assertion that had run out: it checks nothing".to_owned()),
            Err(error) if error.says_unknown_issuer() => {
                fault("role_arn", format!("the role's account has no OIDC provider for {}", self.issuer))
            }
            Err(error) => match error.outcome() {
                Outcome::Refused => Vec::new(),
                Outcome::NeverHeard | Outcome::Unknown => {
                    fault("", format!("STS of {} is out of reach: {error}", self.region))
                }
            },
        }
    }

    fn promise(&self, scope: &Scope) -> Promise {
        Promise::of(scope, Revocability::ExpiryOnly, scope.ttl.max.max(SHORTEST_SESSION))
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
        let claims = Assertion {
            issuer: &self.issuer,
            audience: &self.audience,
            subject: order.subject,
            role_arn: &target.role_arn,
            lease: order.lease,
            task: order.task,
            scope: &order.scope.name,
            tags: &order.narrowing.tags,
            now: order.now,
        }
        .claims()
        .map_err(|error| refuse(error.to_string(), None))?;
        self.can_narrow(order.target, order.narrowing).map_err(|problem| refuse(problem, None))?;
        let policy = narrow::policy(&order.target["session_policy"], &order.narrowing.deny_statements)
            .map_err(|problem| refuse(problem, None))?;
        let assertion = self.sign(&claims).await?;
        let session_name = order.lease.to_string();
        let ask = Ask {
            role_arn: &target.role_arn,
            session_name: &session_name,
            assertion: assertion.expose(),
            policy: &policy,
            seconds: seconds(order.ttl.max(SHORTEST_SESSION)),
        };
        match self.sts.assume(ask).await {
            Ok(answer) => self.accept(order, target, answer),
            Err(error) => Err(error.of_issue(&target.role_arn)),
        }
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

    async fn revoke(&self, _: &Lease, _: Timestamp) -> Result<Revocation, RevokeError> {
        Ok(Revocation::RunsOut)
    }
}

/// As STS takes it. A scope gives at most 12 hours, so it always fits.
fn seconds(ttl: Ttl) -> i32 {
    i32::try_from(ttl.as_seconds()).unwrap_or(i32::MAX)
}
