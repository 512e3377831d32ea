//! What gives credentials: one file per kind of target, the same four verbs in each.

pub mod artifact;
pub mod aws;
pub mod token;
pub mod vault;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use dayfly_domain::id::{LeaseId, SessionId, TaskId};
use dayfly_domain::lease::{Handle, Lease};
use dayfly_domain::policy::Narrowing;
use dayfly_domain::scope::{Promise, Scope};
use dayfly_domain::secret::Secret;
use dayfly_domain::spiffe::SpiffeId;
use dayfly_domain::template::TemplateFault;
use dayfly_domain::time::{Timestamp, Ttl};
use serde_json::Value;
use thiserror::Error;

use crate::signer::SignError;

/// Any error of a client library, kept as a cause.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// One kind of target behind four verbs.
#[async_trait]
pub trait Provider: Send + Sync {
    /// The key under `spec.target` that names this provider.
    fn name(&self) -> &'static str;

    /// Checks a scope's target when it is applied: every fault, with its path under `spec.target.<name>`. No network.
    fn check_scope(&self, scope: &Scope) -> Vec<TemplateFault>;

    /// Asks the target, when the scope is applied, whether it would honour the scope: the token role is closed, the
    /// role exists. A target that is out of reach is a fault too.
    async fn probe_scope(&self, scope: &Scope) -> Vec<TemplateFault>;

    /// What can be promised about taking a credential of this scope back.
    fn promise(&self, scope: &Scope) -> Promise;

    /// Whether there is anything to issue. A scope of a provider that says no is asked about, not issued.
    fn gives_credentials(&self) -> bool {
        true
    }

    /// Whether issuing touches nothing outside this process, so that pending and active may be one transaction.
    fn is_local(&self) -> bool {
        false
    }

    /// The longest a credential whose answer was lost can work, counted from the call.
    fn residue(&self, scope: &Scope, ttl: Ttl) -> Ttl;

    /// Whether a credential for this rendered target can carry all that policies took away, told why not. Asked before
    /// the lease is opened; a provider that cannot enforce a part of it says so, and nothing is issued.
    fn can_narrow(&self, target: &Value, narrowing: &Narrowing) -> Result<(), String>;

    /// Asks the target for a credential.
    async fn issue(&self, order: &Order<'_>) -> Result<Issued, IssueError>;

    /// How a lease of this provider goes on living.
    fn renewal(&self, scope: &Scope) -> Renewal;

    /// Asks the target for a longer life, in place. Called only where [`Provider::renewal`] says `InPlace`.
    async fn extend(
        &self,
        lease: &Lease,
        scope: &Scope,
        ttl: Ttl,
        now: Timestamp,
    ) -> Result<Timestamp, IssueError>;

    /// Puts the name of something the target handed out under the credential into its handle, so that it is ended and
    /// looked up by name. None where the target knows no such thing, or the handle has it already.
    fn note_target_lease(&self, _handle: &Handle, _target_lease: &str) -> Option<Handle> {
        None
    }

    /// What proves a revocation, where credentials are checked against the lease itself: once the lease is over, there is
    /// nobody left to ask. None where a target must be asked. Counts for leases whose revocability is `exact` alone.
    fn settled_by_lease(&self) -> Option<&'static str> {
        None
    }

    /// Takes one credential back. Revoking what is gone is success.
    async fn revoke(&self, lease: &Lease, now: Timestamp) -> Result<Revocation, RevokeError>;
}

/// What to issue: decided, rendered, on record.
#[derive(Debug)]
pub struct Order<'a> {
    /// The lease, told to the target wherever it takes a name.
    pub lease: LeaseId,
    /// The task.
    pub task: TaskId,
    /// Its session.
    pub session: SessionId,
    /// Whom it is for.
    pub subject: &'a SpiffeId,
    /// Who opened each task above, root first, this task's opener last.
    pub chain: &'a [SpiffeId],
    /// The scope.
    pub scope: &'a Scope,
    /// The scope's target with values in its leaves.
    pub target: &'a Value,
    /// What policies took away. The provider said that it can enforce it: see [`Provider::can_narrow`].
    pub narrowing: &'a Narrowing,
    /// How long it may live; what policies say of it is in it already.
    pub ttl: Ttl,
    /// The moment of the decision.
    pub now: Timestamp,
}

/// What the target gave.
#[derive(Debug)]
pub struct Issued {
    /// The credential itself. Goes to the caller and nowhere else.
    pub credential: Credential,
    /// When it stops working by itself.
    pub expires_at: Timestamp,
    /// What takes it back. No secret.
    pub handle: Handle,
}

/// A credential on its way to the caller.
#[derive(Debug)]
pub enum Credential {
    /// A session of AWS STS or a service like it.
    Aws {
        /// Access key id.
        access_key_id: Secret,
        /// Secret access key.
        secret_access_key: Secret,
        /// Session token.
        session_token: Secret,
        /// Region to use it in; empty if the scope names none.
        region: String,
    },
    /// A Vault service token.
    Vault {
        /// The token.
        token: Secret,
        /// The Vault it is for.
        address: String,
    },
    /// A signed access token.
    Token {
        /// The token.
        access_token: Secret,
        /// The service it is for.
        audience: String,
    },
}

/// How a lease goes on living.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// The target lengthens the same credential.
    InPlace,
    /// A new credential under a new lease; the old one is taken back.
    Reissue,
}

/// What came of a revocation.
#[derive(Debug, PartialEq, Eq)]
pub enum Revocation {
    /// The target's answer, after the revoke, shows that it is gone.
    Verified {
        /// What was asked, where, and what came back.
        evidence: String,
    },
    /// The target took the word; the effect is not proven yet.
    Applied,
    /// The target has no way to take it back.
    RunsOut,
}

/// Why a target gave no credential, told by what may now exist there.
#[derive(Debug, Error)]
pub enum IssueError {
    /// The target said no. Nothing exists; asking again will not help.
    #[error("{provider} refused: {what}")]
    Refuse {
        /// The provider.
        provider: &'static str,
        /// What it refused, without secrets.
        what: String,
        /// The cause.
        #[source]
        source: Option<BoxError>,
    },
    /// Nothing more can be given out that could be taken back. Nothing was asked; asking later may help.
    #[error("{provider} is full: {what}")]
    Full {
        /// The provider.
        provider: &'static str,
        /// What is full.
        what: String,
    },
    /// The target was never reached. Nothing exists; asking again is safe.
    #[error("{provider} is out of reach: {what}")]
    Unreach {
        /// The provider.
        provider: &'static str,
        /// What was tried.
        what: String,
        /// The cause.
        #[source]
        source: Option<BoxError>,
    },
    /// No key of ours signed what it takes. Nothing exists; asking again is safe.
    #[error(transparent)]
    Unsigned(#[from] SignError),
    /// The request left and no answer came. A credential may exist.
    #[error("{provider} did not answer: {what}")]
    Unresolved {
        /// The provider.
        provider: &'static str,
        /// What was asked.
        what: String,
        /// The cause.
        #[source]
        source: Option<BoxError>,
    },
    /// The target gave something other than the scope says. It is being taken back by this handle.
    #[error("{provider} is misconfigured: {what}")]
    Misconfigured {
        /// The provider.
        provider: &'static str,
        /// What differs, and what to change.
        what: String,
        /// What takes the unwanted credential back.
        handle: Handle,
        /// When it stops working by itself.
        expires_at: Timestamp,
    },
}

/// Why a revocation must be tried again.
#[derive(Debug, Error)]
#[error("{provider}: {what}")]
pub struct RevokeError {
    /// The provider.
    pub provider: &'static str,
    /// What failed, without secrets.
    pub what: String,
    /// The cause.
    #[source]
    pub source: Option<BoxError>,
}

/// The providers of this broker, by name.
#[derive(Clone, Default)]
pub struct Catalogue {
    by_name: BTreeMap<&'static str, Arc<dyn Provider>>,
}

/// A broker that does not know yet who it is has no providers.
pub(crate) static NO_PROVIDERS: Catalogue = Catalogue { by_name: BTreeMap::new() };

impl Catalogue {
    /// Adds a provider.
    #[must_use]
    pub fn with(mut self, provider: Arc<dyn Provider>) -> Self {
        self.by_name.insert(provider.name(), provider);
        self
    }

    /// The provider of that name, if this broker has it.
    pub fn get(&self, name: &str) -> Option<&Arc<dyn Provider>> {
        self.by_name.get(name)
    }

    /// Names of all providers.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.by_name.keys().copied()
    }
}
