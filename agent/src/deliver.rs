//! Gets a task's credentials from the broker, once for all that ask together, and renews them while the task lives.
//!
//! The decision is always about the process that asks: its own SVID goes to the broker, for the first issue and for each
//! renewal. A renewal that is denied takes the credential away here as well.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use dayfly_client::{BrokerClient, CallError};
use dayfly_proto::v1;
use prost_types::Timestamp;
use tonic::Code;
use tracing::{debug, info, warn};
use zeroize::Zeroizing;

use crate::attester::{AttestError, Attester, Subject};
use crate::credentials::{Class, Credential, Failure, Lease, Provider, Slot};
use crate::fault_point;
use crate::fence::Fence;
use crate::metrics::Metrics;
use crate::process::Process;
use crate::rules::Rules;
use crate::task::Task;

/// SDKs give the container endpoint two seconds (botocore).
const PATIENCE: Duration = Duration::from_millis(1800);
/// A renewal that could not be tried is tried again after this, or sooner if time is short.
const RETRY: Duration = Duration::from_secs(5);
/// A request that the broker still calls unfinished after this was lost with the broker that began it: it is taken back
/// there, and another is made.
const KEY_PATIENCE: Duration = Duration::from_secs(5);

/// Why there is no credential to hand out.
#[derive(Debug, thiserror::Error)]
pub enum DeliverError {
    /// The task has ended.
    #[error("the task has ended")]
    Ended,
    /// The agent has lost the broker for too long.
    #[error("the broker is out of reach for too long; nothing is served until it is heard again")]
    Fenced,
    /// The ceiling has no such scope.
    #[error("the task has no scope of the provider {0}")]
    NoScope(&'static str),
    /// Nobody can be shown to the broker.
    #[error(transparent)]
    Attest(#[from] AttestError),
    /// The broker said no, or nothing.
    #[error("the broker gave no credential: {0}")]
    Broker(CallError),
    /// It takes longer than the program waits; the answer will be there when it asks again.
    #[error("the credential is being made; ask again")]
    NotYet,
    /// Rules changed, and the broker cannot be asked whether the credential stands.
    #[error("the rules have changed and the broker cannot say whether the credential stands; ask again")]
    Undecided,
    /// The broker's answer cannot be used.
    #[error("the broker's answer has no usable credential of the provider {0}")]
    Malformed(&'static str),
    /// More kinds of processes ask than are kept.
    #[error("too many different programs of this task ask for credentials")]
    TooMany,
}

impl DeliverError {
    /// Whether the same request can succeed later without anybody changing anything.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::NotYet | Self::Fenced | Self::Undecided => true,
            Self::Broker(error) => error.is_transient() || !error.is_refusal(),
            Self::Attest(
                AttestError::Unreachable { .. } | AttestError::Busy { .. } | AttestError::Changed,
            ) => true,
            _ => false,
        }
    }

    /// How long to wait, where the broker refused because too much was asked.
    pub fn too_much(&self) -> Option<Duration> {
        match self {
            Self::Broker(error) if error.is_refusal() && error.code == Code::ResourceExhausted => {
                Some(error.retry_after.unwrap_or(RETRY))
            }
            _ => None,
        }
    }
}

/// What came of a renewal.
#[derive(Debug, PartialEq, Eq)]
pub enum Renewed {
    /// The lease holds longer, or a new one is in its place.
    Yes,
    /// It could not be asked; the lease holds until it runs out.
    Later,
    /// The lease is gone.
    Dropped,
}

/// The way from the broker to a task's processes.
#[derive(Debug)]
pub struct Deliverer {
    broker: BrokerClient,
    attester: Arc<Attester>,
    rules: Arc<Rules>,
    fence: Arc<Fence>,
    metrics: Arc<Metrics>,
}

impl Deliverer {
    /// Puts the parts together.
    pub fn new(
        broker: BrokerClient,
        attester: Arc<Attester>,
        rules: Arc<Rules>,
        fence: Arc<Fence>,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        Arc::new(Self { broker, attester, rules, fence, metrics })
    }

    /// The credential of this provider for a process of the task, from the cache or new.
    pub async fn obtain(
        self: &Arc<Self>,
        task: &Arc<Task>,
        provider: Provider,
        asker: &Process,
    ) -> Result<Arc<Lease>, DeliverError> {
        if task.is_open() {
            self.fence.down_within(PATIENCE / 2).await;
        }
        self.must_serve(task)?;
        let subject = self.attester.subject(asker).await?;
        let slot = self.slot(task, provider, &subject)?;
        slot.asked_by(asker);
        let lease = match self.standing(task, provider, &slot) {
            Some(lease) => lease,
            None => {
                let (this, task, slot) = (Arc::clone(self), Arc::clone(task), Arc::clone(&slot));
                // On its own: whoever asked may hang up, the next one finds what it asked for.
                let flight = tokio::spawn(async move { this.fill(&task, provider, &slot, &subject).await });
                match tokio::time::timeout(PATIENCE, flight).await {
                    Ok(filled) => filled.expect("the flight does not panic")?,
                    Err(_) => return Err(DeliverError::NotYet),
                }
            }
        };
        if lease.refresh_at <= SystemTime::now() {
            self.renew_soon(task, provider, &slot);
        }
        // Things may have changed while the broker was asked.
        self.must_serve(task)?;
        Ok(lease)
    }

    /// The lease, if it can be handed out as it is.
    fn standing(&self, task: &Task, provider: Provider, slot: &Slot) -> Option<Arc<Lease>> {
        slot.lease(SystemTime::now()).filter(|lease| self.stands(task, provider, lease))
    }

    fn stands(&self, task: &Task, provider: Provider, lease: &Lease) -> bool {
        let scope = task.delivery(provider).map(|delivery| &*delivery.scope.scope).unwrap_or_default();
        self.rules.stand(&lease.rules_digest, scope)
    }

    fn must_serve(&self, task: &Task) -> Result<(), DeliverError> {
        if !task.is_open() {
            return Err(DeliverError::Ended);
        }
        if self.fence.is_up() { Err(DeliverError::Fenced) } else { Ok(()) }
    }

    fn slot(&self, task: &Task, provider: Provider, subject: &Subject) -> Result<Arc<Slot>, DeliverError> {
        match task.credentials.slot(provider, Class::from(subject)) {
            Some(slot) => Ok(slot),
            None if task.is_open() => Err(DeliverError::TooMany),
            None => Err(DeliverError::Ended),
        }
    }

    /// Issues, unless somebody else just did, or just failed to. A lease from before the rules changed is decided anew.
    async fn fill(
        self: &Arc<Self>,
        task: &Arc<Task>,
        provider: Provider,
        slot: &Arc<Slot>,
        subject: &Subject,
    ) -> Result<Arc<Lease>, DeliverError> {
        let asked = Instant::now();
        let _gate = slot.gate.lock().await;
        self.must_serve(task)?;
        if let Some(lease) = self.standing(task, provider, slot) {
            return Ok(lease);
        }
        if let Some(failure) = slot.failure_since(asked) {
            return Err(told(failure, provider));
        }
        if slot.lease(SystemTime::now()).is_some() {
            match self.renew_behind_gate(task, provider, slot).await {
                // Whatever rules the answer names: it was decided just now.
                Renewed::Yes => return slot.lease(SystemTime::now()).ok_or(DeliverError::Undecided),
                Renewed::Later => {
                    slot.failed(Failure::Undecided);
                    return Err(DeliverError::Undecided);
                }
                Renewed::Dropped => {}
            }
        }
        let delivery = task.delivery(provider).ok_or(DeliverError::NoScope(provider.as_str()))?;
        let request = v1::IssueCredentialRequest {
            subject_token: subject.token.to_string(),
            task_id: task.id.clone(),
            task_key: String::new(),
            scope: Some(delivery.scope.clone()),
            ttl: None,
            idempotency_key: slot.key(),
        };
        fault_point!("deliver.before_broker");
        let answer = self.broker.credentials().issue_credential(request).await;
        fault_point!("deliver.after_broker");
        let outcome = if answer.is_ok() { "issued" } else { "failed" };
        Metrics::count_at(&self.metrics.credentials, provider.as_str(), outcome);
        let answer = answer.map_err(|status| failed(slot, status.into()))?.into_inner();
        use v1::issue_credential_response::Credential as Wire;
        let credential = match answer.credential {
            Some(Wire::Aws(aws)) if provider == Provider::Aws => from_aws(aws),
            Some(Wire::Vault(vault)) if provider == Provider::Vault => from_vault(vault),
            Some(Wire::Token(token)) if provider == Provider::Token => from_token(token),
            _ => return Err(malformed(slot, provider)),
        };
        let times = times(answer.expires_at, answer.refresh_at);
        let (expires_at, refresh_at) = times.ok_or_else(|| malformed(slot, provider))?;
        slot.forget_key();
        let (id, rules_digest) = (answer.lease_id, answer.rules_digest);
        let lease = Lease { id, credential: Arc::new(credential), expires_at, refresh_at, rules_digest };
        let lease = Arc::new(lease);
        info!(task_id = %task.id, lease_id = %lease.id, provider = provider.as_str(),
              spiffe_id = %subject.spiffe_id, "credential issued");
        self.must_serve(task)?;
        if !slot.keep(Arc::clone(&lease)) {
            return Err(DeliverError::Ended);
        }
        // Vault's tokens die unless they are renewed, and a file is read when nobody asks us.
        if matches!(provider, Provider::Vault | Provider::Token) && slot.begin_keeping() {
            let (this, task, slot) = (Arc::clone(self), Arc::clone(task), Arc::clone(slot));
            tokio::spawn(async move {
                tokio::select! {
                    () = this.renew_by_the_clock(&task, provider, &slot) => {}
                    () = task.ended() => {}
                }
            });
        }
        fault_point!("deliver.before_answer");
        Ok(lease)
    }

    async fn renew_by_the_clock(&self, task: &Arc<Task>, provider: Provider, slot: &Slot) {
        loop {
            let Some(lease) = slot.lease(SystemTime::now()) else {
                if slot.end_keeping(SystemTime::now()) {
                    return;
                }
                continue;
            };
            until(lease.refresh_at).await;
            if self.fence.is_up() {
                slot.drop_lease();
            } else if self.renew(task, provider, slot).await == Renewed::Later {
                let left = lease.expires_at.duration_since(SystemTime::now()).unwrap_or_default();
                tokio::time::sleep(RETRY.min(left / 4).max(Duration::from_millis(200))).await;
            }
        }
    }

    /// Renews behind an answer that was still good.
    fn renew_soon(self: &Arc<Self>, task: &Arc<Task>, provider: Provider, slot: &Arc<Slot>) {
        if slot.failed_within(RETRY) {
            return;
        }
        let (this, task, slot) = (Arc::clone(self), Arc::clone(task), Arc::clone(slot));
        tokio::spawn(async move { this.renew(&task, provider, &slot).await });
    }

    /// Renews a lease in the name of a process that asked for it and lives.
    pub async fn renew(&self, task: &Arc<Task>, provider: Provider, slot: &Slot) -> Renewed {
        let Ok(_gate) = slot.gate.try_lock() else { return Renewed::Later };
        let renewed = self.renew_behind_gate(task, provider, slot).await;
        if renewed == Renewed::Later {
            slot.could_not_renew();
        }
        renewed
    }

    async fn renew_behind_gate(&self, task: &Arc<Task>, provider: Provider, slot: &Slot) -> Renewed {
        let Some(held) = slot.lease(SystemTime::now()) else { return Renewed::Dropped };
        if held.refresh_at > SystemTime::now() && self.stands(task, provider, &held) {
            return Renewed::Yes;
        }
        let Some(subject) = self.somebody_alive(task, provider, slot).await else {
            debug!(lease_id = %held.id, "nobody lives in whose name to renew");
            return Renewed::Later;
        };
        let request = v1::RenewLeaseRequest {
            subject_token: subject.token.to_string(),
            task_id: task.id.clone(),
            task_key: String::new(),
            lease_id: held.id.clone(),
        };
        let answer = match self.broker.credentials().renew_lease(request).await {
            Ok(answer) => answer.into_inner(),
            Err(status) => {
                let error = CallError::from(status);
                Metrics::count_at(&self.metrics.credentials, provider.as_str(), "renewal_failed");
                warn!(task_id = %task.id, lease_id = %held.id, %error, "could not renew");
                if !is_final(&error) {
                    return Renewed::Later;
                }
                slot.drop_lease();
                return Renewed::Dropped;
            }
        };
        use v1::renew_lease_response::Credential as Wire;
        let credential = match answer.credential {
            None => Arc::clone(&held.credential),
            Some(Wire::Aws(aws)) => Arc::new(from_aws(aws)),
            Some(Wire::Vault(vault)) => Arc::new(from_vault(vault)),
            Some(Wire::Token(token)) => Arc::new(from_token(token)),
        };
        let Some((expires_at, refresh_at)) = times(answer.expires_at, answer.refresh_at) else {
            return Renewed::Later;
        };
        let (id, rules_digest) = (answer.lease_id, answer.rules_digest);
        let renewed = Lease { id, credential, expires_at, refresh_at, rules_digest };
        Metrics::count_at(&self.metrics.credentials, provider.as_str(), "renewed");
        debug!(task_id = %task.id, was = %held.id, is = %renewed.id, "lease renewed");
        if task.is_open() && slot.keep(Arc::new(renewed)) { Renewed::Yes } else { Renewed::Dropped }
    }

    /// A live process of the same class: one that asked, or the leader.
    async fn somebody_alive(&self, task: &Task, provider: Provider, slot: &Slot) -> Option<Arc<Subject>> {
        let leader = task.anchor.leader().cloned();
        for process in slot.askers().into_iter().chain(leader) {
            let Ok(subject) = self.attester.subject(&process).await else { continue };
            let its_slot = task.credentials.slot(provider, Class::from(&*subject));
            if its_slot.is_some_and(|its| std::ptr::eq(Arc::as_ptr(&its), slot)) {
                return Some(subject);
            }
        }
        None
    }
}

/// Notes why there is no credential, for all who wait. Where the broker said no, nothing was issued under the key.
fn failed(slot: &Slot, error: CallError) -> DeliverError {
    let in_flight = error.reason.as_deref() == Some("IDEMPOTENCY_KEY_IN_FLIGHT");
    if error.is_refusal() && (!in_flight || slot.key_age() > KEY_PATIENCE) {
        slot.forget_key();
    }
    slot.failed(Failure::Call(error.clone()));
    DeliverError::Broker(error)
}

/// What was issued is of no use; asking again takes it back.
fn malformed(slot: &Slot, provider: Provider) -> DeliverError {
    slot.failed(Failure::Malformed);
    DeliverError::Malformed(provider.as_str())
}

fn told(failure: Failure, provider: Provider) -> DeliverError {
    match failure {
        Failure::Call(error) => DeliverError::Broker(error),
        Failure::Malformed => DeliverError::Malformed(provider.as_str()),
        Failure::Undecided => DeliverError::Undecided,
    }
}

/// A denial ends the lease; trouble on the way does not.
fn is_final(error: &CallError) -> bool {
    let refused = matches!(
        error.code,
        Code::PermissionDenied | Code::NotFound | Code::FailedPrecondition | Code::InvalidArgument
    );
    error.is_refusal() && refused && !error.is_transient()
}

fn from_aws(mut aws: v1::AwsCredential) -> Credential {
    Credential::Aws {
        access_key_id: Zeroizing::new(std::mem::take(&mut aws.access_key_id)),
        secret_access_key: Zeroizing::new(std::mem::take(&mut aws.secret_access_key)),
        session_token: Zeroizing::new(std::mem::take(&mut aws.session_token)),
    }
}

fn from_vault(mut vault: v1::VaultCredential) -> Credential {
    Credential::Vault { token: Zeroizing::new(std::mem::take(&mut vault.token)), address: vault.address }
}

fn from_token(mut token: v1::TokenCredential) -> Credential {
    Credential::Token { access_token: Zeroizing::new(std::mem::take(&mut token.access_token)) }
}

/// Without a word on when to renew, halfway to the end.
fn times(expires_at: Option<Timestamp>, refresh_at: Option<Timestamp>) -> Option<(SystemTime, SystemTime)> {
    let expires_at = SystemTime::try_from(expires_at?).ok()?;
    let halfway = || {
        let now = SystemTime::now();
        now + expires_at.duration_since(now).unwrap_or_default() / 2
    };
    let refresh_at = refresh_at.and_then(|at| SystemTime::try_from(at).ok()).unwrap_or_else(halfway);
    Some((expires_at, refresh_at))
}

/// Waits for a moment of the wall clock, and looks at it often enough to notice that it was set.
pub(crate) async fn until(moment: SystemTime) {
    while let Ok(left) = moment.duration_since(SystemTime::now()) {
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(Duration::from_secs(5))).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(code: Code, reason: Option<&str>, wait: Option<Duration>) -> CallError {
        CallError {
            code,
            reason: reason.map(str::to_owned),
            message: "no".to_owned(),
            next: None,
            request_id: None,
            retry_after: wait,
        }
    }

    #[test]
    fn a_denial_ends_a_lease_and_trouble_on_the_way_does_not() {
        assert!(is_final(&refusal(Code::PermissionDenied, Some("NOT_COVERED"), None)));
        assert!(is_final(&refusal(Code::NotFound, Some("UNKNOWN"), None)));
        assert!(!is_final(&refusal(Code::PermissionDenied, None, None)), "a proxy said so, not the broker");
        assert!(!is_final(&refusal(Code::Unavailable, Some("TARGET_DOWN"), None)));
        assert!(!is_final(&refusal(Code::FailedPrecondition, Some("X"), Some(Duration::from_secs(1)))));
        assert!(!is_final(&refusal(Code::DeadlineExceeded, None, None)));
    }

    #[test]
    fn without_a_word_from_the_broker_half_the_life_is_when_to_renew() {
        let expires_at = SystemTime::now() + Duration::from_secs(100);
        let (_, refresh_at) = times(Some(expires_at.into()), None).expect("it has an end");
        let ahead = refresh_at.duration_since(SystemTime::now()).unwrap_or_default();
        assert!((48..=50).contains(&ahead.as_secs()), "{ahead:?}");
        assert!(times(None, Some(expires_at.into())).is_none());
    }
}
