//! The cloud in a test's own process.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

use crate::account::{Place, identifier};
use crate::answer::Refusal;
use crate::cloud::{Asked, Cloud, lock};
use crate::policy::{Context, Decision, Document, Kind};
use crate::seed::Seed;
use crate::trouble::{Fault, Settings};
use crate::{iam, server, sts};

/// A running cloud, on threads of its own: a test that blocks does not stop it. It ends when it is dropped.
///
/// # Panics
/// When dropped, if something was asked that it does not know: see [`FakeCloud::complaints`].
#[derive(Debug)]
pub struct FakeCloud {
    address: SocketAddr,
    cloud: Arc<Cloud>,
    runtime: Option<Runtime>,
}

/// Credentials of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    /// `ASIA…`
    pub access_key_id: String,
    /// Signs.
    pub secret_access_key: String,
    /// Goes with each request.
    pub session_token: String,
}

/// A session that a test makes without STS.
#[derive(Clone, Debug, Default)]
pub struct SessionAsk {
    /// The role's name.
    pub role: String,
    /// The session's name.
    pub name: String,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// Its source identity.
    pub source_identity: Option<String>,
    /// Its session policy.
    pub policy: Option<String>,
    /// How long it lasts.
    pub seconds: i64,
}

impl FakeCloud {
    /// Starts it on a free port of the loopback address.
    ///
    /// # Panics
    /// On a seed that holds a policy which AWS would refuse or the fake does not know.
    #[must_use]
    pub fn start(seed: &Seed) -> Self {
        Self::listen((Ipv4Addr::LOCALHOST, 0).into(), seed).expect("a free port and a seed that is in order")
    }

    /// Starts it on an address.
    ///
    /// # Errors
    /// An address that cannot be had, or a seed as at [`FakeCloud::start`].
    pub fn listen(listen: SocketAddr, seed: &Seed) -> io::Result<Self> {
        let cloud = Arc::new(Cloud::default());
        cloud.account().add(seed).map_err(io::Error::other)?;
        let listener = server::bind(listen)?;
        let address = listener.local_addr()?;
        let runtime =
            Builder::new_multi_thread().worker_threads(1).thread_name("fakecloud").enable_all().build()?;
        runtime.spawn(server::run(listener, cloud.clone()));
        Ok(Self { address, cloud, runtime: Some(runtime) })
    }

    /// The address of STS and IAM.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The address of S3.
    #[must_use]
    pub fn s3_url(&self) -> String {
        format!("{}/s3", self.url())
    }

    /// Adds to what there is.
    ///
    /// # Panics
    /// As [`FakeCloud::start`].
    pub fn seed(&self, seed: &Seed) {
        self.cloud.account().add(seed).expect("a seed that is in order");
    }

    /// Changes how it behaves.
    pub fn set(&self, change: impl FnOnce(&mut Settings)) {
        change(&mut lock(&self.cloud.troubles).settings);
    }

    /// From now on, changes of role policies take so long in every region.
    pub fn propagation(&self, delay: Duration) {
        self.set(|settings| settings.propagation.everywhere_ms = millis(delay));
    }

    /// From now on, changes of role policies take so long in this region.
    pub fn propagation_to(&self, region: &str, delay: Duration) {
        self.set(|settings| {
            settings.propagation.regions_ms.insert(region.to_owned(), millis(delay));
        });
    }

    /// Adds a fault, behind those there are.
    pub fn fault(&self, fault: Fault) {
        lock(&self.cloud.troubles).faults.push(fault);
    }

    /// Ends all faults.
    pub fn clear_faults(&self) {
        lock(&self.cloud.troubles).faults.clear();
    }

    /// What was asked, oldest first.
    #[must_use]
    pub fn asked(&self) -> Vec<Asked> {
        lock(&self.cloud.log).iter().cloned().collect()
    }

    /// Forgets what was asked.
    pub fn forget_asked(&self) {
        lock(&self.cloud.log).clear();
    }

    /// What it was asked and does not know.
    #[must_use]
    pub fn complaints(&self) -> Vec<String> {
        lock(&self.cloud.complaints).clone()
    }

    /// Forgets them: for a test that meant to ask.
    pub fn forget_complaints(&self) {
        lock(&self.cloud.complaints).clear();
    }

    /// An inline policy as it was put last.
    #[must_use]
    pub fn role_policy(&self, role: &str, name: &str) -> Option<String> {
        self.cloud.account().roles.get(role)?.inline.latest().get(name).map(|inline| inline.text.clone())
    }

    /// Puts or removes an inline policy as somebody else would, without a request.
    ///
    /// # Errors
    /// What IAM would say.
    pub fn put_role_policy(&self, role: &str, name: &str, text: Option<&str>) -> Result<(), String> {
        let (propagation, now_ms) = (self.cloud.settings().propagation, self.cloud.now_ms());
        let mut account = self.cloud.account();
        let role = account.roles.get_mut(role).ok_or("there is no such role")?;
        iam::put(role, name.to_owned(), text, &propagation, now_ms).map_err(told)
    }

    /// The bytes of an object.
    #[must_use]
    pub fn object(&self, bucket: &str, key: &str) -> Option<Vec<u8>> {
        self.cloud.account().buckets.get(bucket)?.get(key).cloned()
    }

    /// Makes a session without STS, so that a test has a caller.
    ///
    /// # Panics
    /// When there is no such role, or on a policy as at [`FakeCloud::start`].
    #[must_use]
    pub fn session(&self, ask: &SessionAsk) -> Keys {
        let now = self.cloud.now_ms().div_euclid(1_000);
        let mut account = self.cloud.account();
        let role = account.roles.get(&ask.role).expect("a role of the seed");
        let policy = ask.policy.as_deref().map(|text| Document::parse(text, Kind::Permissions));
        let session = crate::account::Session {
            tags: ask.tags.clone(),
            source_identity: ask.source_identity.clone(),
            policy: policy.transpose().expect("a policy that is in order").map(Arc::new),
            ..sts::session(role, &ask.name, now, now.saturating_add(ask.seconds))
        };
        let keys = Keys {
            access_key_id: identifier("ASIA", 16),
            secret_access_key: session.secret.clone(),
            session_token: session.token.clone(),
        };
        account.sessions.insert(keys.access_key_id.clone(), session);
        keys
    }

    /// Whether a session may do this in a region now, without a request: for tests that ask about thousands. A session that
    /// has run out may do nothing, and `None` is said of it and of an unknown key.
    ///
    /// # Panics
    /// On a comparison that the evaluator does not know.
    #[must_use]
    pub fn decision(
        &self,
        access_key_id: &str,
        region: &str,
        action: &str,
        resource: &str,
    ) -> Option<Decision> {
        let now_ms = self.cloud.now_ms();
        let account = self.cloud.account();
        let session = account.sessions.get(access_key_id)?;
        if session.expires_at <= now_ms.div_euclid(1_000) {
            return None;
        }
        let place = Place { region, now_ms };
        let decision = account.decide(session, place, action, resource, Context::default());
        Some(decision.expect("a policy that is known"))
    }
}

impl Drop for FakeCloud {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
        let complaints = self.complaints();
        if !std::thread::panicking() {
            assert!(complaints.is_empty(), "the fake cloud was asked what it does not know: {complaints:#?}");
        }
    }
}

fn millis(delay: Duration) -> i64 {
    i64::try_from(delay.as_millis()).unwrap_or(i64::MAX)
}

fn told(refusal: Refusal) -> String {
    format!("{}: {}", refusal.code, refusal.message)
}
