//! A provider with keys of its own, and what tests order from it.
#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use dayfly_domain::id::{LeaseId, SessionId, TaskId};
use dayfly_domain::lease::{Lease, LeaseState};
use dayfly_domain::parameter::{ParameterSpec, ParameterType};
use dayfly_domain::policy::Narrowing;
use dayfly_domain::scope::{Scope, TtlLimits};
use dayfly_domain::spiffe::SpiffeId;
use dayfly_domain::template::Template;
use dayfly_domain::time::{Timestamp, Ttl};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{NAME, Reserved, TokenOptions, TokenProvider};
use crate::providers::{Credential, IssueError, Issued, Order, Provider};
use crate::public::Issuers;
use crate::signer::{FileSigner, Signer, Use};

pub(crate) const NOW: Timestamp = Timestamp::from_unix_millis(1_800_000_000_250);
pub(crate) const SERVICE: &str = "spiffe://example.org/tool/search";
pub(crate) const TRAINER: &str = "spiffe://example.org/training/trainer";

pub(crate) struct World {
    _home: TempDir,
    pub(crate) signer: Arc<FileSigner>,
    pub(crate) issuers: Issuers,
    pub(crate) provider: TokenProvider,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(TokenOptions { dev: false, introspection: true })
    }

    pub(crate) fn with(options: TokenOptions) -> Self {
        let home = tempfile::tempdir().unwrap();
        let signer = Arc::new(FileSigner::open(&home.path().join("keys")).unwrap());
        let issuers = Issuers::new("https://issuer.example").unwrap();
        let broker = id("spiffe://example.org/dayfly/broker");
        let reserved = Reserved::new(issuers.clone(), broker, ["sts.amazonaws.com".to_owned()]);
        let provider = TokenProvider::new(signer.clone(), issuers.clone(), reserved, options);
        World { _home: home, signer, issuers, provider }
    }

    pub(crate) fn jwks(&self, purpose: Use) -> Value {
        self.signer.jwks(purpose)
    }

    /// Signs whatever a thief of the key would.
    pub(crate) async fn sign(&self, purpose: Use, claims: &Value) -> String {
        self.signer.sign(purpose, purpose.typ(), claims).await.unwrap()
    }

    pub(crate) async fn issue(&self, scope: &Scope) -> (Issued, String) {
        self.issue_through(scope, &[id(TRAINER)]).await
    }

    pub(crate) async fn issue_through(&self, scope: &Scope, chain: &[SpiffeId]) -> (Issued, String) {
        self.issue_narrowed(scope, chain, &Narrowing::default()).await.unwrap()
    }

    pub(crate) async fn issue_narrowed(
        &self,
        scope: &Scope,
        chain: &[SpiffeId],
        narrowing: &Narrowing,
    ) -> Result<(Issued, String), IssueError> {
        let target = scope.target.render(&BTreeMap::from([("dataset".into(), "corpus-7".into())])).unwrap();
        let subject = id(TRAINER);
        let order = Order {
            lease: LeaseId::new(NOW, 3),
            task: TaskId::new(NOW, 2),
            session: SessionId::from(TaskId::new(NOW, 1)),
            subject: &subject,
            chain,
            scope,
            target: &target,
            narrowing,
            ttl: scope.ttl.default,
            now: NOW,
        };
        let issued = self.provider.issue(&order).await?;
        let Credential::Token { access_token, .. } = &issued.credential else { panic!("a token") };
        let token = access_token.expose().to_owned();
        Ok((issued, token))
    }

    /// The lease of [`World::issue`], in a state.
    pub(crate) fn lease(&self, scope: &Scope, state: LeaseState) -> Lease {
        Lease {
            id: LeaseId::new(NOW, 3),
            task: TaskId::new(NOW, 2),
            session: SessionId::from(TaskId::new(NOW, 1)),
            spiffe_id: id(TRAINER),
            scope: scope.name.clone(),
            parameters: BTreeMap::from([("dataset".into(), "corpus-7".into())]),
            provider: NAME.to_owned(),
            promise: self.provider.promise(scope),
            narrowed: None,
            renews: None,
            opened_at: NOW,
            state,
        }
    }
}

pub(crate) fn id(text: &str) -> SpiffeId {
    text.parse().unwrap()
}

/// A scope on a target, with one parameter, `dataset`.
pub(crate) fn scope(target: Value) -> Scope {
    let dataset = ParameterSpec { kind: ParameterType::Segment, pattern: None };
    let parameters = BTreeMap::from([("dataset".to_owned(), dataset)]);
    Scope {
        name: "search".to_owned(),
        description: String::new(),
        stages: BTreeSet::new(),
        target: Template::parse(target, &parameters).unwrap(),
        parameters,
        ttl: TtlLimits { default: Ttl::minutes(2), max: Ttl::minutes(5) },
        anchor: None,
        approval: None,
        leaves_behind: Vec::new(),
        limits: Default::default(),
        on_agent_loss: Default::default(),
        provider: NAME.to_owned(),
        digest: String::new(),
    }
}

pub(crate) fn introspected() -> Scope {
    scope(json!({
        "audience": SERVICE,
        "checked": "introspect",
        "scope": ["query", "read:{dataset}"],
        "claims": {"collection": "papers/{dataset}", "limit": 100},
    }))
}

pub(crate) fn offline() -> Scope {
    scope(json!({"audience": SERVICE, "checked": "offline"}))
}

/// A JWS whose parts are whatever the test says.
pub(crate) fn assemble(header: &Value, claims: &Value, signature: &[u8]) -> String {
    let part = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    format!(
        "{}.{}.{}",
        part(header.to_string().as_bytes()),
        part(claims.to_string().as_bytes()),
        part(signature)
    )
}

/// One part of a token, as JSON.
pub(crate) fn part(token: &str, index: usize) -> Value {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').nth(index).unwrap()).unwrap()).unwrap()
}
