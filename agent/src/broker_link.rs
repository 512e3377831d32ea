//! The one stream to the broker: what stands here and what ended goes up, what must end comes down.
//!
//! A stream outlives the certificate it began with: ends are taken on it still, nothing is given. So a new identity means
//! a new stream, and the old one is kept until the new one stands.

use std::sync::Arc;
use std::time::{Duration, Instant};

use dayfly_client::{BrokerClient, CallError, Health, Identity};
use dayfly_proto::v1::attach_request::Message as Up;
use dayfly_proto::v1::attach_response::Message as Down;
use dayfly_proto::v1::{AttachRequest, AttachResponse, Heartbeat, Hello, Welcome};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use tracing::{debug, info, warn};

use crate::attester::Attester;
use crate::fence::Fence;
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
        let mut terms = Terms { lapse_after: USUAL_LAPSE };
        loop {
            let mut attached = self.attach_in_the_end(&mut terms).await;
            loop {
                self.fence.lower();
                self.metrics.fenced.set(0);
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

    /// Tries until a stream stands, and raises the fence when that takes too long.
    async fn attach_in_the_end(&self, terms: &mut Terms) -> Attached {
        let silent_since = Instant::now();
        let mut pause = PAUSES.0;
        loop {
            let lapse = terms.lapse_after.saturating_sub(silent_since.elapsed());
            tokio::select! {
                attached = self.attach(terms) => match attached {
                    Ok(attached) => return attached,
                    Err(status) => warn!(error = %CallError::from(status), "cannot attach to the broker"),
                },
                () = self.fence_after(lapse) => unreachable!("the fence waits for ever once it is up"),
            }
            // Some before, some after: agents that lost one broker must not all come back at once.
            let jittered = pause.mul_f64(rand::random_range(0.5..1.0));
            let lapse = terms.lapse_after.saturating_sub(silent_since.elapsed());
            tokio::select! {
                () = tokio::time::sleep(jittered) => {}
                () = self.fence_after(lapse) => unreachable!("the fence waits for ever once it is up"),
            }
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    /// Stops all serving after a while, and never completes.
    async fn fence_after(&self, while_left: Duration) {
        tokio::time::sleep(while_left).await;
        if self.fence.raise() {
            self.metrics.fenced.set(1);
            for task in self.tasks.open_tasks() {
                task.credentials.clear();
            }
            self.attester.clear();
        }
        std::future::pending().await
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
        let late = || Status::deadline_exceeded("the broker did not welcome us in time");
        let (down, welcome) = tokio::time::timeout(ATTACH_PATIENCE, attach).await.map_err(|_| late())??;
        let heartbeat = self.agree(&welcome, terms);
        if self.rules.stand_now(&welcome.rules_digest) {
            self.decide_anew();
        }
        Ok(Attached { up, down, heartbeat })
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
        loop {
            let sent = tokio::select! {
                received = down.message() => match received {
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
                    let beat = Up::Heartbeat(Heartbeat { task_ids: self.inventory().await });
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
            Down::Welcome(_) => debug!("the broker welcomes us twice"),
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

async fn send(up: &mpsc::Sender<AttachRequest>, message: Up) -> Result<(), ()> {
    up.send(AttachRequest { message: Some(message) }).await.map_err(drop)
}

async fn send_all(up: &mpsc::Sender<AttachRequest>, messages: Vec<Up>) -> Result<(), ()> {
    for message in messages {
        send(up, message).await?;
    }
    Ok(())
}
