//! Keeps one role's deny document: writes it when somebody asks, and looks after it when nobody does.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dayfly_domain::audit::{Record, Stream};
use dayfly_domain::aws_deny::{State, Written};
use dayfly_domain::schedule;
use dayfly_domain::time::{Timestamp, Ttl};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::canary::{Canary, Seen};
use super::role::RoleArn;
use super::{CLOCK_SKEW, Shared, WRITE_PAUSE};
use crate::store::slots::{DocumentWritten, Plan, PlanAsk};

/// How long the right to write a document is held. Who did not finish within half of it does not write.
const HOLD: Ttl = Ttl::seconds(30);
/// How often a document is compared with what AWS has, and what ran out is taken out of it.
const DRIFT_PERIOD: Ttl = Ttl::minutes(1);
/// How often a canary is tried while a document becomes effective.
const LOOK_PERIOD: Ttl = Ttl::seconds(1);
/// How long a document that somebody waits for is held up by comparing the one before.
const COMPARE_PATIENCE: Duration = Duration::from_secs(2);
/// How long until a canary that could not be opened is opened again.
const CANARY_PAUSE: Ttl = Ttl::seconds(15);

/// Where a role's document is asked for.
pub(super) struct Desk {
    asked: AtomicU64,
    wake: Notify,
    passed: watch::Sender<Passed>,
}

/// What came of the last pass.
#[derive(Clone, Default)]
struct Passed {
    /// Everything asked up to this was in it.
    number: u64,
    failed: Option<Arc<str>>,
}

impl Default for Desk {
    fn default() -> Self {
        Self { asked: AtomicU64::new(0), wake: Notify::new(), passed: watch::Sender::new(Passed::default()) }
    }
}

impl Desk {
    /// Asks for a pass that nobody waits for.
    pub(super) fn wake(&self) {
        self.wake.notify_one();
    }

    /// Waits for a pass that begins after now. What it failed with is told.
    pub(super) async fn pass(&self, within: Duration) -> Result<(), String> {
        let mut passed = self.passed.subscribe();
        let mine = self.asked.fetch_add(1, Ordering::SeqCst) + 1;
        self.wake.notify_one();
        let waited = tokio::time::timeout(within, passed.wait_for(|passed| passed.number >= mine)).await;
        let failed = |passed: &Passed| passed.failed.as_ref().map(ToString::to_string);
        match waited {
            Ok(Ok(passed)) => failed(&passed).map_or(Ok(()), Err),
            Ok(Err(_)) => Err("the broker stops".to_owned()),
            Err(_) => Err(failed(&self.passed.borrow()).unwrap_or_else(|| "AWS takes long".to_owned())),
        }
    }
}

/// What goes on beside the writing.
enum Aside {
    Opened(Result<Canary, String>),
    Looked(Canary, Seen),
}

pub(super) struct Keeper {
    shared: Arc<Shared>,
    role: RoleArn,
    desk: Arc<Desk>,
    fence: Option<u64>,
    /// Opened, and not denied yet.
    standby: Option<Canary>,
    /// Denied in a version that is not shown to be effective yet.
    sent: Option<(Canary, u64)>,
    aside: Option<JoinHandle<Aside>>,
    /// What is shown by the canary that is being looked at.
    looks_for: u64,
    last: Option<Last>,
    failures: u32,
    not_before: Instant,
    compared_at: Option<Instant>,
    open_after: Instant,
}

/// How the last pass left things.
#[derive(Clone, Copy)]
struct Last {
    written: u64,
    proven: u64,
    leases: u32,
}

impl Keeper {
    pub(super) fn new(shared: Arc<Shared>, role: RoleArn, desk: Arc<Desk>) -> Self {
        let now = Instant::now();
        Self {
            shared,
            role,
            desk,
            fence: None,
            standby: None,
            sent: None,
            aside: None,
            looks_for: 0,
            last: None,
            failures: 0,
            not_before: now,
            compared_at: None,
            open_after: now,
        }
    }

    pub(super) async fn run(mut self, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.keep() => {}
        }
        if let Some(aside) = self.aside {
            aside.abort();
        }
    }

    async fn keep(&mut self) {
        loop {
            let number = self.desk.asked.load(Ordering::SeqCst);
            let failed = self.pass().await.err();
            match &failed {
                None => self.failures = 0,
                Some(why) => {
                    self.failures += 1;
                    let wait = schedule::retry_after(self.failures, rand::random());
                    self.not_before = self.not_before.max(Instant::now() + wait.as_duration());
                    self.shared.counts.failed.inc();
                    tracing::warn!(role = %self.role, why, %wait, "a deny document is not written yet");
                }
            }
            let again = failed.is_some();
            self.desk.passed.send_replace(Passed { number, failed: failed.map(Into::into) });
            self.wait(again).await;
            tokio::time::sleep_until(self.not_before).await;
        }
    }

    /// Until there is something to do: somebody asked, a canary is ready or told something, or it is time.
    async fn wait(&mut self, again: bool) {
        let until = Instant::now() + DRIFT_PERIOD.as_duration();
        let until = if again { self.not_before } else { until };
        loop {
            self.begin_aside();
            let desk = Arc::clone(&self.desk);
            let opens = self.open_after.max(Instant::now() + LOOK_PERIOD.as_duration());
            tokio::select! {
                () = desk.wake.notified() => return,
                () = tokio::time::sleep_until(until) => return,
                () = tokio::time::sleep_until(opens), if self.aside.is_none() && self.wants_canary() => {}
                done = finished(&mut self.aside) => {
                    self.aside = None;
                    if let Some(done) = done && self.take(done).await {
                        return;
                    }
                }
            }
        }
    }

    fn wants_canary(&self) -> bool {
        let now = self.shared.clock.now();
        let lasts = self.standby.as_ref().is_some_and(|canary| canary.will_last(now));
        self.fence.is_some() && !lasts && self.last.is_some_and(|last| last.leases > 0)
    }

    /// One thing beside the writing at a time: to look at a canary that was sent comes before opening another.
    fn begin_aside(&mut self) {
        if self.aside.is_some() {
            return;
        }
        let shared = Arc::clone(&self.shared);
        let now = shared.clock.now();
        let written = self.last.map_or(0, |last| last.written);
        if let Some((canary, version)) = self.sent.take_if(|(_, version)| *version <= written) {
            if !canary.lasts(now) {
                tracing::warn!(role = %self.role, version, "a canary ran out before its deny document was effective");
                return;
            }
            self.looks_for = version;
            self.aside = Some(tokio::spawn(async move {
                let seen = canary.look(&shared).await;
                if seen != Seen::Denied {
                    tokio::time::sleep(LOOK_PERIOD.as_duration()).await;
                }
                Aside::Looked(canary, seen)
            }));
        } else if self.wants_canary() && self.open_after <= Instant::now() {
            let role = self.role.clone();
            self.aside = Some(tokio::spawn(async move { Aside::Opened(Canary::open(&shared, &role).await) }));
        }
    }

    /// Takes in what went on beside. True if there is something to write now.
    async fn take(&mut self, done: Aside) -> bool {
        match done {
            Aside::Opened(Ok(canary)) => {
                self.standby = Some(canary);
                self.has_more_to_prove()
            }
            Aside::Opened(Err(why)) => {
                self.open_after = Instant::now() + CANARY_PAUSE.as_duration();
                tracing::warn!(role = %self.role, why, "no canary: what is denied stays applied and is not verified");
                false
            }
            Aside::Looked(canary, Seen::Denied) => {
                self.proven(canary).await;
                self.has_more_to_prove()
            }
            Aside::Looked(canary, seen) => {
                if let Seen::Unclear(why) = seen {
                    tracing::info!(role = %self.role, why, "a canary could not tell whether it is denied");
                }
                self.sent = Some((canary, self.looks_for));
                false
            }
        }
    }

    /// Whether a version was written behind the back of the canary that was sent, and another one is ready.
    fn has_more_to_prove(&self) -> bool {
        let unproven = self.last.is_some_and(|last| last.proven < last.written);
        unproven && self.standby.is_some() && self.sent.is_none()
    }

    async fn proven(&mut self, canary: Canary) {
        let (version, minter) = (self.looks_for, &self.shared.minter);
        let evidence = format!(
            "sts:GetAccessKeyInfo as canary {} was denied explicitly at {} ({}) at {}: version {version} of the deny \
             document of {} is effective there",
            canary.id,
            minter.endpoint(),
            minter.region(),
            self.shared.clock.now(),
            self.role,
        );
        match self.shared.store.document_proven(self.role.as_str(), version, evidence).await {
            Ok(()) => {
                self.shared.counts.proven.inc();
                if let Some(last) = &mut self.last {
                    last.proven = last.proven.max(version);
                }
                tracing::info!(role = %self.role, version, "a deny document is effective");
            }
            Err(error) => {
                tracing::warn!(role = %self.role, error = dayfly_client::chain(&error), "what a canary showed could not be noted");
                self.sent = Some((canary, version));
            }
        }
    }

    /// Brings the document at AWS to what the store knows.
    async fn pass(&mut self) -> Result<(), String> {
        let now = self.shared.clock.now();
        let begun = Instant::now();
        let Some(plan) = self.plan(now).await? else {
            self.fence = None;
            return Err("another broker writes it".to_owned());
        };
        let document = State::at(now, CLOCK_SKEW, plan.sessions.iter().copied()).document();
        let text = document.text();
        let digest = digest(&text);
        let stands = plan.written.as_ref().is_some_and(|(_, written)| *written == digest);
        let changed = self.was_changed(&plan).await;
        if !stands || changed {
            // The right to write it may be another's by now.
            if begun.elapsed() > HOLD.as_duration() / 2 {
                return Err("the broker was held up".to_owned());
            }
            self.write(&text).await?;
            let (entries, characters) = (document.entries(), text.len());
            tracing::info!(role = %self.role, version = plan.version, entries, characters, "a deny document is written");
        }
        if !stands || changed || self.last.is_none_or(|last| last.written != plan.version) {
            let at = match plan.written.filter(|_| stands && !changed) {
                Some((before, _)) => before.at,
                None => self.shared.clock.now(),
            };
            self.note(plan.fence, plan.version, Written { of: now, at }, digest).await?;
        }
        // A version that was shown to be effective meanwhile stays so.
        let proven = self.last.map_or(0, |last| last.proven).max(plan.proven);
        self.last = Some(Last { written: plan.version, proven, leases: plan.leases });
        Ok(())
    }

    async fn plan(&mut self, now: Timestamp) -> Result<Option<Plan>, String> {
        let ready = self.standby.as_ref().filter(|_| self.sent.is_none() && !self.looks());
        let canary = ready.filter(|canary| canary.lasts(now)).map(|canary| canary.id);
        let ask = PlanAsk {
            role: self.role.as_str().to_owned(),
            owner: self.shared.owner.clone(),
            fence: self.fence,
            hold_for: HOLD,
            canary,
            propagation: self.shared.propagation,
            now,
        };
        let plan =
            self.shared.store.plan_document(ask).await.map_err(|error| dayfly_client::chain(&error))?;
        if let Some(plan) = &plan {
            self.fence = Some(plan.fence);
            if plan.canary_taken {
                self.sent = self.standby.take().map(|canary| (canary, plan.version));
            }
        }
        Ok(plan)
    }

    /// Whether a canary is out to be looked at.
    fn looks(&self) -> bool {
        let proven = self.last.map_or(0, |last| last.proven);
        self.aside.is_some() && self.looks_for > proven
    }

    async fn write(&mut self, text: &str) -> Result<(), String> {
        let put = self.shared.iam.put(&self.role, text).await;
        self.not_before = Instant::now() + WRITE_PAUSE.as_duration();
        put.map_err(|error| format!("PutRolePolicy: {}", dayfly_client::chain(&error)))?;
        self.shared.counts.written.inc();
        Ok(())
    }

    async fn note(
        &mut self,
        fence: u64,
        version: u64,
        written: Written,
        digest: String,
    ) -> Result<(), String> {
        let note = DocumentWritten { role: self.role.as_str().to_owned(), fence, version, written, digest };
        let noted = self.shared.store.document_written(note).await;
        if !noted.map_err(|error| dayfly_client::chain(&error))? {
            self.fence = None;
            tracing::error!(role = %self.role, "another broker took the deny document over while it was written; it will repair it");
            return Err("another broker took it over".to_owned());
        }
        Ok(())
    }

    /// Compares, once in a while, what AWS has with what was written last.
    async fn was_changed(&mut self, plan: &Plan) -> bool {
        let due = self.compared_at.is_none_or(|at| at.elapsed() >= DRIFT_PERIOD.as_duration());
        // The first document of a role is compared with nothing; without sessions it has nothing to deny.
        let Some((_, written)) = plan.written.as_ref().filter(|_| due && !plan.sessions.is_empty()) else {
            return false;
        };
        self.compared_at = Some(Instant::now());
        let look = async {
            let document = self.shared.iam.document(&self.role).await?;
            Ok::<_, super::super::errors::CallError>((document, self.shared.iam.others(&self.role).await?))
        };
        let looked = tokio::time::timeout(COMPARE_PATIENCE, look).await;
        let (document, others) = match looked {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => {
                tracing::warn!(role = %self.role, error = dayfly_client::chain(&error), "the deny document could not be compared");
                return false;
            }
            Err(_) => return false,
        };
        if !others.is_empty() {
            self.tell("the role has inline policies that are not Dayfly's", &others.join(" ")).await;
        }
        let found = document.as_deref().map_or_else(|| "none".to_owned(), digest_of_json);
        let changed = found != *written;
        if changed {
            self.tell("the deny document is not as it was written; it is written again", &found).await;
        }
        changed
    }

    /// A finding: somebody else writes policies of the role.
    async fn tell(&self, what: &'static str, found: &str) {
        self.shared.counts.changed.inc();
        tracing::error!(alarm = "deny_document_changed", role = %self.role, found, what);
        let record = Record::new(Stream::Admin, "aws.deny_document_changed", self.shared.clock.now())
            .with("role", self.role.as_str())
            .with("what", what)
            .with("found", found);
        if let Err(error) = self.shared.store.write_records(vec![record]).await {
            tracing::error!(error = dayfly_client::chain(&error), "a finding could not be recorded");
        }
    }
}

/// Waits for what goes on beside, for ever if nothing does. None if it broke off.
async fn finished(aside: &mut Option<JoinHandle<Aside>>) -> Option<Aside> {
    match aside {
        Some(handle) => handle.await.ok(),
        None => std::future::pending().await,
    }
}

fn digest(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Of a document whose white space and order are somebody else's.
fn digest_of_json(text: &str) -> String {
    let value: Result<Value, _> = serde_json::from_str(text);
    value.map_or_else(|_| digest(text), |value| digest(&value.to_string()))
}
