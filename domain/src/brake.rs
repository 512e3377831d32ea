//! When a node's silence ends its tasks, and when so many are silent that it is more likely a fault between them and the
//! broker.
//!
//! A brake holds back only what has no other reason than silence. What was exited, due, ended from above or by an admin
//! ends as ever, and a silent node gets nothing new meanwhile. It holds until the nodes are back, an admin releases it,
//! or the longest hold is over.

use crate::node::{NodeHeard, NodeState};
use crate::spiffe::SpiffeId;
use crate::time::{Timestamp, Ttl};

/// Fewer silent nodes than this never brake: a fleet of one or two lapses as it should.
pub const LEAST_SILENT: u32 = 3;

/// What counts as too many at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BrakeLimits {
    /// More silent nodes than this.
    pub nodes: u32,
    /// More than this share of the nodes that were heard, in percent.
    pub percent: u32,
    /// Nodes that fell silent within this span count together.
    pub window: Ttl,
    /// The longest that ends are held back.
    pub longest: Ttl,
}

/// What the broker knows of its own ears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hearing {
    /// The first of the outages that followed each other without a pause.
    episode: Timestamp,
    /// The last of them.
    last: Timestamp,
    /// Nobody can be blamed for silence before this.
    from: Timestamp,
}

impl Hearing {
    /// A broker that starts to listen.
    pub fn since(start: Timestamp) -> Self {
        Self { episode: start, last: start, from: start }
    }

    /// The broker could not hear until now: it was stopped, its clock jumped, or its store failed. A broker that is deaf
    /// again and again blames nobody for at most `longest`.
    #[must_use]
    pub fn after_outage(self, now: Timestamp, lapse_after: Ttl, longest: Ttl) -> Self {
        let episode = if now > self.last + lapse_after { now } else { self.episode };
        Self { episode, last: now, from: now.min(episode + longest).max(self.from) }
    }
}

/// The brake, as it stands in the store.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Brake {
    /// Since when it holds.
    pub engaged_at: Option<Timestamp>,
    /// Silence that began before this moment is not held back: an admin said so, or the longest hold was over.
    pub released_at: Option<Timestamp>,
    /// Who released it.
    pub released_by: String,
}

/// Why ends are held back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HoldReason {
    /// The broker itself was deaf, and listens first.
    BrokerWasAway,
    /// More nodes fell silent at once than the limits say.
    ManySilent,
}

impl HoldReason {
    /// The word for records, metrics and the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            HoldReason::BrokerWasAway => "broker_was_away",
            HoldReason::ManySilent => "many_silent",
        }
    }
}

/// What becomes of silent nodes now.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Verdict<'a> {
    /// These lapse, and their tasks end.
    pub lapse: Vec<&'a SpiffeId>,
    /// These would, and are held back.
    pub held: Vec<&'a SpiffeId>,
    /// Why.
    pub why: Option<HoldReason>,
    /// Nodes that fell silent together.
    pub silent: u32,
    /// Of so many that were heard before.
    pub of: u32,
    /// What the brake has to become, if it changes.
    pub change: Option<Change>,
}

/// What the brake becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It begins to hold.
    Engage,
    /// Nobody is silent any more.
    Lift,
    /// It held for as long as it may.
    Expire,
}

/// Spans of silence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Silence {
    /// So long, and a node counts as fallen silent.
    pub quiet_after: Ttl,
    /// So long, and it lapses.
    pub lapse_after: Ttl,
}

/// Judges every node that was ever heard.
pub fn judge<'a>(
    nodes: &'a [NodeHeard],
    silence: Silence,
    limits: BrakeLimits,
    hearing: Hearing,
    brake: &Brake,
    now: Timestamp,
) -> Verdict<'a> {
    let released = |since: Timestamp| brake.released_at.is_some_and(|at| since <= at);
    let window_begins = now - silence.lapse_after - limits.window;
    let (mut silent, mut speaking) = (0_u32, 0_u32);
    let mut due = Vec::new();
    for node in nodes {
        let since = silent_since(node, hearing);
        let is_attached = node.state == NodeState::Attached;
        if is_attached && now <= since + silence.quiet_after {
            speaking += 1;
        } else if since >= window_begins && !released(since) {
            silent += 1;
        }
        if is_attached && now > node.last_seen_at + silence.lapse_after {
            due.push((since, node));
        }
    }
    let of = silent + speaking;
    let too_many = silent >= LEAST_SILENT
        && (silent > limits.nodes || u64::from(silent) * 100 > u64::from(limits.percent) * u64::from(of));
    let expired = brake.engaged_at.is_some_and(|at| now >= at + limits.longest);
    let braked = !expired && (brake.engaged_at.is_some() || too_many);

    let mut verdict = Verdict { silent, of, ..Verdict::default() };
    for (since, node) in due {
        let listened_long_enough = now > since + silence.lapse_after;
        if expired || released(since) || (!braked && listened_long_enough) {
            verdict.lapse.push(&node.node);
        } else {
            verdict.held.push(&node.node);
            verdict.why = Some(if braked { HoldReason::ManySilent } else { HoldReason::BrokerWasAway });
        }
    }
    let holds = verdict.why == Some(HoldReason::ManySilent);
    verdict.change = match (brake.engaged_at.is_some(), holds) {
        (true, _) if expired => Some(Change::Expire),
        (true, false) => Some(Change::Lift),
        (false, true) => Some(Change::Engage),
        (true, true) | (false, false) => None,
    };
    verdict
}

/// While the broker was deaf, an attached node's silence is not the node's. One that lapsed did so before.
fn silent_since(node: &NodeHeard, hearing: Hearing) -> Timestamp {
    match node.state {
        NodeState::Attached => node.last_seen_at.max(hearing.from),
        NodeState::Lapsed => node.last_seen_at,
    }
}

#[cfg(test)]
mod tests;
