//! Nodes that fall silent: each lapses with its tasks, unless so many do that a brake holds their ends back.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use dayfly_domain::audit::{Record, Stream};
use dayfly_domain::brake::{Brake, BrakeLimits, Change, Hearing, HoldReason, Silence, Verdict, judge};
use dayfly_domain::id::RequestId;
use dayfly_domain::node::NodeHeard;
use dayfly_domain::spiffe::SpiffeId;
use dayfly_domain::task::EndCause;
use dayfly_domain::time::{Timestamp, Ttl};

use super::admin::Admin;
use super::end_task::end;
use super::{Broker, OperationError, Request};
use crate::store::{EndWhich, StoreError};

/// A broker that did not look for this long was deaf meanwhile: stopped, its clock set, or its store failing.
const DEAF_AFTER: Ttl = Ttl::seconds(5);
/// An attach refused for another boot is recorded at most this often for one node.
const REFUSED_AGAIN: Ttl = Ttl::minutes(1);
/// Most nodes that a record names.
const MOST_NAMED: usize = 50;

/// What the broker remembers of silence between two looks. All that must not be lost stands in the store.
#[derive(Debug, Default)]
pub struct Lapses(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    hearing: Option<Hearing>,
    looked_at: Option<Timestamp>,
    held: Held,
    refused: HashMap<SpiffeId, Timestamp>,
}

/// What is held back at the moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Nodes that would have lapsed.
    pub nodes: Vec<SpiffeId>,
    /// Why they have not.
    pub why: Option<HoldReason>,
    /// Nodes that fell silent together.
    pub silent: u32,
    /// Of so many that were heard before.
    pub of: u32,
}

impl Lapses {
    /// What is held back, as of the last look.
    pub fn held(&self) -> Held {
        self.lock().held.clone()
    }

    /// Whether a refused attach of this node is to be recorded, or one was a moment ago.
    pub fn refusal_is_news(&self, node: &SpiffeId, now: Timestamp) -> bool {
        let mut state = self.lock();
        state.refused.retain(|_, at| now < *at + REFUSED_AGAIN);
        let is_news = !state.refused.contains_key(node);
        state.refused.entry(node.clone()).or_insert(now);
        is_news
    }

    /// Notes that the broker looks now, and says from when on it can blame nodes for their silence.
    fn listen(&self, now: Timestamp, lapse_after: Ttl, longest: Ttl) -> Hearing {
        let mut state = self.lock();
        let hearing = match (state.hearing, state.looked_at) {
            (Some(hearing), Some(last)) if now > last + DEAF_AFTER => {
                tracing::warn!(%last, "the broker was deaf: it listens before it takes nodes for silent");
                hearing.after_outage(now, lapse_after, longest)
            }
            (Some(hearing), _) => hearing,
            (None, _) => Hearing::since(now),
        };
        state.hearing = Some(hearing);
        hearing
    }

    /// Notes a look that succeeded. What it began with is what it heard.
    fn looked(&self, at: Timestamp, held: Held) -> Held {
        let mut state = self.lock();
        state.looked_at = Some(at);
        std::mem::replace(&mut state.held, held)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Refuses what would be given through a node that is not attached, was silent for too long, or shows an older epoch.
pub async fn must_speak(
    broker: &Broker,
    request: &Request,
    epoch: Option<u64>,
) -> Result<(), OperationError> {
    let Some(node) = request.caller.via.node() else { return Ok(()) };
    let heard = broker.store.nodes_heard(Some(node)).await?;
    let speaks = |heard: &NodeHeard| {
        epoch.is_some_and(|epoch| heard.speaks(epoch, request.at, broker.limits.lapse_after))
    };
    if heard.first().is_some_and(speaks) { Ok(()) } else { Err(OperationError::NodeFenced(node.clone())) }
}

/// Looks who is silent, and ends what may end: `hear → judge → brake → lapse`.
pub async fn sweep(broker: &Broker) -> Result<(), StoreError> {
    let now = broker.clock.now();
    let limits = &broker.limits;
    let brake_limits = BrakeLimits {
        nodes: limits.brake_nodes,
        percent: limits.brake_percent,
        window: limits.brake_window,
        longest: limits.brake_longest,
    };
    let two_beats = Ttl::millis(limits.heartbeat_interval.as_millis().saturating_mul(2));
    let silence = Silence { quiet_after: two_beats.min(limits.lapse_after), lapse_after: limits.lapse_after };
    let hearing = broker.lapses.listen(now, limits.lapse_after, limits.brake_longest);
    let nodes = broker.store.nodes_heard(None).await?;
    let brake = broker.store.brake().await?;
    let verdict = judge(&nodes, silence, brake_limits, hearing, &brake, now);
    if let Some(change) = verdict.change {
        move_brake(broker, brake, change, &verdict, now).await?;
    }
    for node in &verdict.lapse {
        lapse(broker, node, now).await?;
    }
    let held = Held {
        nodes: verdict.held.iter().map(|node| (*node).clone()).collect(),
        why: verdict.why,
        silent: verdict.silent,
        of: verdict.of,
    };
    broker.metrics.nodes_held(held.nodes.len());
    let (nodes, why) = (held.nodes.len(), held.why);
    let before = broker.lapses.looked(now, held);
    if why == Some(HoldReason::BrokerWasAway) && before.why != why {
        tracing::warn!(nodes, "ends of silent nodes wait until the broker has listened for long enough");
    }
    Ok(())
}

async fn lapse(broker: &Broker, node: &SpiffeId, now: Timestamp) -> Result<(), StoreError> {
    let which = EndWhich::SilentNode {
        node: node.clone(),
        silent_since_before: now - broker.limits.lapse_after,
        spared_scopes: broker.rules.load().held_on_agent_loss(),
    };
    let ended = end(broker, which, EndCause::NodeSilent, None).await?;
    broker.metrics.node_lapsed();
    let (tasks, leases) = (ended.tasks.len(), ended.leases.len());
    tracing::warn!(%node, tasks, leases, "node silent for too long: it lapsed");
    Ok(())
}

async fn move_brake(
    broker: &Broker,
    brake: Brake,
    change: Change,
    verdict: &Verdict<'_>,
    now: Timestamp,
) -> Result<(), StoreError> {
    let lifted = Brake { engaged_at: None, ..brake.clone() };
    let (event, to) = match change {
        Change::Engage => ("brake.engaged", Brake { engaged_at: Some(now), ..brake.clone() }),
        Change::Lift => ("brake.lifted", lifted),
        Change::Expire => (
            "brake.expired",
            Brake { released_at: Some(now), released_by: "the longest hold is over".to_owned(), ..lifted },
        ),
    };
    let named: Vec<&SpiffeId> = verdict.held.iter().copied().take(MOST_NAMED).collect();
    let record = Record::new(Stream::Admin, event, now)
        .with("silent", verdict.silent)
        .with("of", verdict.of)
        .with("held", verdict.held.len())
        .with("nodes", named);
    if !broker.store.move_brake(brake, to, record).await? {
        return Ok(());
    }
    match change {
        Change::Engage => {
            broker.metrics.brake_engaged();
            let (silent, of) = (verdict.silent, verdict.of);
            tracing::error!(
                silent,
                of,
                alarm = "brake_engaged",
                "so many nodes fell silent at once that their ends are held back; see dayfly brake show"
            );
        }
        Change::Lift => tracing::warn!("no node is silent any more: the brake is lifted"),
        Change::Expire => tracing::warn!("the brake held for as long as it may: silent nodes lapse"),
    }
    Ok(())
}

/// Lets lapse what the brake holds back: an admin says that the silence is real.
pub async fn release(
    broker: &Broker,
    admin: &Admin,
    request: RequestId,
    reason: &str,
) -> Result<Held, OperationError> {
    let now = broker.clock.now();
    let held = broker.lapses.held();
    loop {
        let brake = broker.store.brake().await?;
        let to = Brake { engaged_at: None, released_at: Some(now), released_by: admin.name() };
        let record = Record::new(Stream::Admin, "brake.released", now)
            .request(request)
            .with("by", admin.name())
            .with("reason", reason)
            .with("held", held.nodes.len());
        // It may be lifted, or engaged, in between.
        if broker.store.move_brake(brake, to, record).await? {
            break;
        }
    }
    tracing::warn!(by = admin.name(), nodes = held.nodes.len(), "the brake is released: silent nodes lapse");
    sweep(broker).await?;
    Ok(held)
}
