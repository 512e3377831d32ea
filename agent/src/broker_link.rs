//! The one stream to the broker: what stands here and what ended goes up, what must end comes down.
//!
//! A stream outlives the certificate it began with: ends are taken on it still, nothing is given. So a new identity means
//! a new stream, and the old one is kept until the new one stands.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use dayfly_client::{BrokerClient, CallError, Health, Identity};
use dayfly_proto::v1::attach_request::Message as Up;
use dayfly_proto::v1::attach_response::Message as Down;
use dayfly_proto::v1::{
    Adopt, AdoptedTask, AttachRequest, AttachResponse, Heartbeat, Hello, KillAcknowledged, Welcome,
};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use tracing::{debug, info, warn};

use crate::attester::Attester;
use crate::fence::{Fence, Moment};
use crate::metrics::Metrics;
use crate::rules::Rules;
use crate::task::{EndSignal, Task};
use crate::tasks::Tasks;

/// How long a stream may take to stand.
const ATTACH_PATIENCE: Duration = Duration::from_secs(10);
/// Pauses between tries grow from the first to the second.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// Until the broker has said its own.
const USUAL_HEARTBEAT: Duration = Duration::from_secs(10);
const USUAL_LAPSE: Duration = Duration::from_secs(30);
/// How long an inventory waits for tasks that are being opened.
const OPENING_PATIENCE: Duration = Duration::from_secs(1);
/// Tasks of an earlier life that the broker is asked about at once.
const ADOPTED_AT_ONCE: usize = 500;
/// Heartbeats whose answers are waited for.
const MOST_UNANSWERED: usize = 64;

/// The agent's side of `NodeService`.
#[derive(Debug)]
pub struct BrokerLink {
    /// The broker.
    pub broker: BrokerClient,
    /// Who we are.
    pub identity: Identity,
    /// What stands here.
    pub tasks: Arc<Tasks>,
    /// What was learnt about workloads; forgotten when nothing may be served.
    pub attester: Arc<Attester>,
    /// Under which rules cached credentials were decided.
    pub rules: Arc<Rules>,
    /// Raised when the broker is silent.
    pub fence: Arc<Fence>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Names this boot.
    pub boot_id: String,
}

/// A stream that stands.
struct Attached {
    up: mpsc::Sender<AttachRequest>,
    down: Streaming<AttachResponse>,
    heartbeat: Duration,
}

/// Why a stream ended.
enum Over {
    /// It broke, or the broker closed it.
    Lost(String),
    /// A better one stands.
    Replaced(Box<Attached>),
}

/// Terms as the broker last gave them.
struct Terms {
    lapse_after: Duration,
}

impl BrokerLink {
    /// Runs until dropped.
    pub async fn run(self) {
        tokio::join!(self.keep_attached(), self.keep_fenced());
    }

    async fn keep_attached(&self) {
        let mut terms = Terms { lapse_after: USUAL_LAPSE };
        loop {
            let mut attached = self.attach_in_the_end(&mut terms).await;
            loop {
                self.metrics.broker_connected.set(1);
                match self.speak(attached, &mut terms).await {
                    Over::Replaced(better) => attached = *better,
                    Over::Lost(why) => {
                        warn!(%why, "the stream to the broker is lost");
                        break;
                    }
                }
            }
            self.metrics.broker_connected.set(0);
        }
    }

    /// Drops what is held each time the right to serve is over. What lies in files goes as well: who keeps one listens to
    /// the fence.
    async fn keep_fenced(&self) {
        self.metrics.fenced.set(1);
        loop {
            self.fence.is(false).await;
            self.metrics.fenced.set(0);
            self.fence.over().await;
            self.metrics.fenced.set(1);
            self.drop_all();
        }
    }

    /// The broker answered what was asked then. Where the right to serve was over, what is held is of before and goes
    /// first, though nobody has raised the fence yet: an agent that was stopped wakes up here.
    fn heard(&self, asked: Moment, terms: &Terms) {
        if self.fence.is_up() {
            self.drop_all();
        }
        self.fence.heard(asked.after(terms.lapse_after));
    }

    fn drop_all(&self) {
        for task in self.tasks.open_tasks() {
            task.credentials.clear();
        }
        self.attester.clear();
    }

    /// Tries until a stream stands.
    async fn attach_in_the_end(&self, terms: &mut Terms) -> Attached {
        let mut pause = PAUSES.0;
        loop {
            match self.attach(terms).await {
                Ok(attached) => return attached,
                Err(status) => warn!(error = %CallError::from(status), "cannot attach to the broker"),
            }
            // Some before, some after: agents that lost one broker must not all come back at once.
            tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    async fn attach(&self, terms: &mut Terms) -> Result<Attached, Status> {
        let (up, outgoing) = mpsc::channel(64);
        let hello =
            Hello { boot_id: self.boot_id.clone(), agent_version: env!("CARGO_PKG_VERSION").to_owned() };
        let hello = AttachRequest { message: Some(Up::Hello(hello)) };
        up.try_send(hello).expect("the channel is new and has room");
        let attach = async {
            let mut down = self.broker.node().attach(ReceiverStream::new(outgoing)).await?.into_inner();
            match down.message().await?.and_then(|first| first.message) {
                Some(Down::Welcome(welcome)) => Ok((down, welcome)),
                _ => Err(Status::internal("the broker did not begin with a welcome")),
            }
        };
        let asked = Moment::now();
        let late = || Status::deadline_exceeded("the broker did not welcome us in time");
        let (mut down, welcome) =
            tokio::time::timeout(ATTACH_PATIENCE, attach).await.map_err(|_| late())??;
        let heartbeat = self.agree(&welcome, terms);
        let adopt = tokio::time::timeout(ATTACH_PATIENCE, self.adopt(&up, &mut down));
        adopt.await.map_err(|_| late())??;
        self.broker.set_node_epoch(welcome.epoch);
        self.heard(asked, terms);
        if self.rules.stand_now(&welcome.rules_digest) {
            self.decide_anew();
        }
        Ok(Attached { up, down, heartbeat })
    }

    /// Asks the broker whether it holds open what was found again after a restart. Nothing is served before.
    async fn adopt(
        &self,
        up: &mpsc::Sender<AttachRequest>,
        down: &mut Streaming<AttachResponse>,
    ) -> Result<(), Status> {
        let gone = |()| Status::unavailable("the broker takes nothing");
        for chunk in self.tasks.unconfirmed().chunks(ADOPTED_AT_ONCE) {
            let tasks = chunk
                .iter()
                .map(|(id, anchor)| AdoptedTask { task_id: id.clone(), anchor: Some(anchor.clone()) });
            send(up, Up::Adopt(Adopt { tasks: tasks.collect() })).await.map_err(gone)?;
            let asked: Vec<String> = chunk.iter().map(|(id, _)| id.clone()).collect();
            loop {
                match down.message().await?.and_then(|answer| answer.message) {
                    Some(Down::Adopted(adopted)) => {
                        self.tasks.confirm(&asked, &adopted.task_ids);
                        break;
                    }
                    // Orders to end what it does not hold open come first.
                    Some(other) => self.hear(other),
                    None => return Err(Status::unavailable("the broker closed the stream")),
                }
            }
        }
        Ok(())
    }

    fn agree(&self, welcome: &Welcome, terms: &mut Terms) -> Duration {
        let span = |told: &Option<prost_types::Duration>| told.and_then(|span| Duration::try_from(span).ok());
        terms.lapse_after = span(&welcome.lapse_after).filter(|span| !span.is_zero()).unwrap_or(USUAL_LAPSE);
        // Whatever we are told, three heartbeats fit into a lapse.
        let heartbeat =
            span(&welcome.heartbeat_interval).filter(|span| !span.is_zero()).unwrap_or(USUAL_HEARTBEAT);
        let heartbeat = heartbeat.min(terms.lapse_after / 3).max(Duration::from_millis(50));
        info!(epoch = welcome.epoch, ?heartbeat, lapse_after = ?terms.lapse_after, "attached to the broker");
        heartbeat
    }

    async fn speak(&self, mut attached: Attached, terms: &mut Terms) -> Over {
        let Attached { up, down, heartbeat } = &mut attached;
        for message in self.tasks.outbox.all() {
            if send(up, message).await.is_err() {
                return Over::Lost("the broker takes nothing".to_owned());
            }
        }
        let mut beats = tokio::time::interval(*heartbeat);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut updates = self.identity.updates();
        let mut serial = self.identity.leaf().ok().map(|leaf| leaf.serial);
        let mut still_told = true;
        let mut unanswered = Unanswered::default();
        loop {
            let sent = tokio::select! {
                received = down.message() => match received {
                    Ok(Some(AttachResponse { message: Some(Down::HeartbeatHeard(heard)) })) => {
                        if let Some(asked) = unanswered.answered(heard.sequence) {
                            self.heard(asked, terms);
                        }
                        Ok(())
                    }
                    // What it ends came in the messages before: all of that is dropped here.
                    Ok(Some(AttachResponse { message: Some(Down::CutOff(notice)) })) => {
                        warn!(kill_id = %notice.kill_id, "an admin used the kill switch");
                        send(up, Up::KillAcknowledged(KillAcknowledged { kill_id: notice.kill_id })).await
                    }
                    Ok(Some(AttachResponse { message: Some(message) })) => {
                        self.hear(message);
                        Ok(())
                    }
                    Ok(Some(AttachResponse { message: None })) => Ok(()),
                    Ok(None) => return Over::Lost("the broker closed it".to_owned()),
                    Err(status) => return Over::Lost(CallError::from(status).to_string()),
                },
                fresh = self.tasks.outbox.fresh() => send_all(up, fresh).await,
                _ = beats.tick() => {
                    if self.fence.is_up() {
                        // A path that carries one way only, or a broker that is stopped.
                        return Over::Lost("the broker answers no heartbeat".to_owned());
                    }
                    let task_ids = self.inventory().await;
                    let beat = Up::Heartbeat(Heartbeat { task_ids, sequence: unanswered.ask() });
                    match send(up, beat).await {
                        Ok(()) => send_all(up, self.tasks.outbox.ends()).await,
                        failed => failed,
                    }
                }
                changed = updates.changed(), if still_told => {
                    still_told = changed.is_ok();
                    let leaf = self.identity.leaf().ok().map(|leaf| leaf.serial);
                    let is_new = leaf.is_some() && leaf != serial && matches!(self.identity.health(), Health::Fresh { .. });
                    if is_new {
                        // The old stream carries ends until the new one stands; it is not read meanwhile.
                        match self.attach(terms).await {
                            Ok(better) => return Over::Replaced(Box::new(better)),
                            Err(status) => warn!(error = %CallError::from(status), "cannot attach with the new identity"),
                        }
                        serial = leaf;
                    }
                    Ok(())
                }
            };
            if sent.is_err() {
                // Why it broke is what `down` says, if it still speaks.
                let why = match down.message().await {
                    Err(status) => CallError::from(status).to_string(),
                    Ok(_) => "the broker takes nothing".to_owned(),
                };
                return Over::Lost(why);
            }
        }
    }

    /// What stands here, tasks included that are being opened, if that does not take long.
    async fn inventory(&self) -> Vec<String> {
        let _settled = tokio::time::timeout(OPENING_PATIENCE, self.tasks.opening.write()).await;
        self.tasks.inventory()
    }

    /// Wakes those who keep a credential in a file. Everybody else asks anew when it is next served.
    fn decide_anew(&self) {
        for task in self.tasks.open_tasks() {
            task.credentials.changed.notify_waiters();
        }
    }

    fn hear(&self, message: Down) {
        match message {
            Down::HeartbeatHeard(_) | Down::Adopted(_) => {}
            Down::Welcome(_) => debug!("the broker welcomes us twice"),
            Down::CutOff(_) => unreachable!("answered where it can be"),
            Down::EndRecorded(recorded) => self.tasks.recorded(&recorded.task_id),
            Down::EndTask(order) => {
                info!(task_id = %order.task_id, cause = %order.cause, "the broker orders an end");
                self.tasks.end(&order.task_id, &EndSignal::Ordered(order.cause));
            }
            Down::RulesChanged(changed) => {
                info!(scopes = ?changed.scopes, "rules changed");
                self.rules.changed(&changed.rules_digest, &changed.scopes);
                self.decide_anew();
            }
            Down::LeaseRevoked(notice) => {
                // Lease ids are the broker's and name one lease of all; it need not say whose it is.
                let drop_in = |task: &Arc<Task>| task.credentials.drop_lease(&notice.lease_id);
                let dropped = self.tasks.open_tasks().iter().any(drop_in);
                info!(lease_id = %notice.lease_id, dropped, "a lease was revoked");
            }
        }
    }
}

/// Heartbeats of one stream that wait for their answer.
#[derive(Debug, Default)]
struct Unanswered {
    sequence: u64,
    asked: VecDeque<(u64, Moment)>,
}

impl Unanswered {
    /// The number of a heartbeat that is sent now.
    fn ask(&mut self) -> u64 {
        self.sequence += 1;
        self.asked.push_back((self.sequence, Moment::now()));
        // Older ones lengthen nothing that a newer one would not.
        while self.asked.len() > MOST_UNANSWERED {
            self.asked.pop_front();
        }
        self.sequence
    }

    /// When the heartbeat was sent that is answered now; none for one that was never sent, or answered before.
    fn answered(&mut self, sequence: u64) -> Option<Moment> {
        let at = self.asked.iter().position(|(asked, _)| *asked == sequence)?;
        self.asked.drain(..=at).next_back().map(|(_, asked)| asked)
    }
}

async fn send(up: &mpsc::Sender<AttachRequest>, message: Up) -> Result<(), ()> {
    up.send(AttachRequest { message: Some(message) }).await.map_err(drop)
}

async fn send_all(up: &mpsc::Sender<AttachRequest>, messages: Vec<Up>) -> Result<(), ()> {
    for message in messages {
        send(up, message).await?;
    }
    Ok(())
}
