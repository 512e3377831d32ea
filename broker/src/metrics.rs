//! Figures for the operator, in Prometheus' names.

use std::collections::HashMap;

use dayfly_domain::decision::DenyReason;
use dayfly_domain::time::{Timestamp, Ttl};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::providers::aws::DenyCounts;
use crate::public::IntrospectionMetrics;
use crate::store::queue::QueueDepth;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByProvider {
    provider: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfQueue {
    provider: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByKind {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByReason {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByLimit {
    limit: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByAnswer {
    answer: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByOutcome {
    provider: &'static str,
    outcome: &'static str,
}

/// Counters and histograms of one broker.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    issued: Family<ByProvider, Counter>,
    authorized: Counter,
    denied: Family<ByReason, Counter>,
    limited: Family<ByLimit, Counter>,
    tasks_opened: Counter,
    tasks_ended: Counter,
    nodes_lapsed: Counter,
    nodes_held: Gauge,
    brakes_engaged: Counter,
    attaches_refused: Counter,
    revocations: Family<ByOutcome, Counter>,
    revocation_seconds: Histogram,
    queued: Family<OfQueue, Gauge>,
    stuck: Family<OfQueue, Gauge>,
    waiting_seconds: Family<OfQueue, Gauge>,
    targets_away: Family<OfQueue, Gauge>,
    kills: Family<ByKind, Gauge>,
    token_exchanges: Family<ByAnswer, Counter>,
    /// What becomes of the deny documents of AWS roles.
    pub deny_documents: DenyCounts,
    /// Counters of the introspection listener.
    pub introspection: IntrospectionMetrics,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("dayfly_broker");
        let issued = Family::default();
        let authorized = Counter::default();
        let denied = Family::default();
        let limited = Family::default();
        let tasks_opened = Counter::default();
        let tasks_ended = Counter::default();
        let nodes_lapsed = Counter::default();
        let nodes_held = Gauge::default();
        let brakes_engaged = Counter::default();
        let attaches_refused = Counter::default();
        let revocations = Family::default();
        let bounds = [0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 300.0];
        let revocation_seconds = Histogram::new(bounds);
        registry.register("credentials_issued", "Credentials issued", issued.clone());
        registry.register("actions_authorized", "Actions on artifacts allowed", authorized.clone());
        registry.register("decisions_denied", "Requests denied, by reason", denied.clone());
        registry.register("requests_limited", "Requests refused for want of room, by limit", limited.clone());
        registry.register("tasks_opened", "Tasks opened", tasks_opened.clone());
        registry.register("tasks_ended", "Tasks ended", tasks_ended.clone());
        registry.register("nodes_lapsed", "Nodes that were silent for too long", nodes_lapsed.clone());
        registry.register("nodes_held", "Silent nodes whose ends are held back", nodes_held.clone());
        registry.register("brakes_engaged", "Times the brake began to hold", brakes_engaged.clone());
        registry.register(
            "attaches_refused",
            "Attaches under a live identity from another boot",
            attaches_refused.clone(),
        );
        registry.register("revocations", "Tries of revocations, by what came of them", revocations.clone());
        registry.register(
            "revocation_seconds",
            "From the end of a task to the target's word that the credential is gone",
            revocation_seconds.clone(),
        );
        let queued = Family::default();
        let stuck = Family::default();
        let waiting_seconds = Family::default();
        let targets_away = Family::default();
        let kills = Family::default();
        registry.register("revocations_queued", "Leases that wait to be taken back", queued.clone());
        registry.register("revocations_stuck", "Of these, tried often in vain", stuck.clone());
        registry.register(
            "revocations_oldest_seconds",
            "How long the oldest has waited",
            waiting_seconds.clone(),
        );
        registry.register(
            "targets_away",
            "1 while revocations fail one after the other",
            targets_away.clone(),
        );
        registry.register("kills_standing", "Kills that stand, by what they cut off", kills.clone());
        let token_exchanges = Family::default();
        registry.register("token_exchanges", "Answers of the token endpoint", token_exchanges.clone());
        let deny_documents = DenyCounts::default();
        let DenyCounts { written, failed, changed, proven } = deny_documents.clone();
        registry.register("deny_documents_written", "Deny documents that AWS took", written);
        registry.register("deny_documents_failed", "Writes of deny documents that failed", failed);
        registry.register(
            "deny_documents_changed",
            "Policies of AWS roles that somebody else changed",
            changed,
        );
        registry.register(
            "deny_documents_proven",
            "Deny documents that a canary showed to be effective",
            proven,
        );
        let introspection = IntrospectionMetrics::default();
        introspection.register(&mut registry);
        Self {
            registry,
            issued,
            authorized,
            denied,
            limited,
            tasks_opened,
            tasks_ended,
            nodes_lapsed,
            nodes_held,
            brakes_engaged,
            attaches_refused,
            revocations,
            revocation_seconds,
            queued,
            stuck,
            waiting_seconds,
            targets_away,
            kills,
            token_exchanges,
            deny_documents,
            introspection,
        }
    }
}

impl Metrics {
    /// A credential went out.
    pub fn issued(&self, provider: &'static str) {
        self.issued.get_or_create(&ByProvider { provider }).inc();
    }

    /// An action on an artifact was allowed.
    pub fn authorized(&self) {
        self.authorized.inc();
    }

    /// A request was denied.
    pub fn denied(&self, reason: DenyReason) {
        self.denied.get_or_create(&ByReason { reason: reason.as_str() }).inc();
    }

    /// A request was refused for want of room: `rate_identity`, `rate_scope`, `rate_session` or `live_leases`.
    pub fn limited(&self, limit: &'static str) {
        self.limited.get_or_create(&ByLimit { limit }).inc();
    }

    /// A task was opened.
    pub fn task_opened(&self) {
        self.tasks_opened.inc();
    }

    /// Tasks ended.
    pub fn tasks_ended(&self, count: usize) {
        self.tasks_ended.inc_by(u64::try_from(count).unwrap_or(u64::MAX));
    }

    /// A node was silent for too long.
    pub fn node_lapsed(&self) {
        self.nodes_lapsed.inc();
    }

    /// So many silent nodes are held back now.
    pub fn nodes_held(&self, nodes: usize) {
        self.nodes_held.set(i64::try_from(nodes).unwrap_or(i64::MAX));
    }

    /// The brake began to hold.
    pub fn brake_engaged(&self) {
        self.brakes_engaged.inc();
    }

    /// Another boot claimed a live node's identity.
    pub fn attach_refused(&self) {
        self.attaches_refused.inc();
    }

    /// A try of a revocation: `verified`, `applied`, `runs_out` or `failed`.
    pub fn revocation(&self, provider: &'static str, outcome: &'static str) {
        self.revocations.get_or_create(&ByOutcome { provider, outcome }).inc();
    }

    /// Several tries of revocations came to the same.
    pub fn revocations(&self, provider: &'static str, outcome: &'static str, count: u32) {
        self.revocations.get_or_create(&ByOutcome { provider, outcome }).inc_by(u64::from(count));
    }

    /// How the queues stand now. A provider that is not named has none.
    pub fn queues(&self, depths: &[QueueDepth], away: impl Fn(&str) -> bool, now: Timestamp) {
        for family in [&self.queued, &self.stuck, &self.waiting_seconds, &self.targets_away] {
            family.clear();
        }
        let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        for depth in depths {
            let of = OfQueue { provider: depth.provider.clone() };
            self.queued.get_or_create(&of).set(number(depth.queued));
            self.stuck.get_or_create(&of).set(number(depth.stuck));
            self.waiting_seconds.get_or_create(&of).set(number(depth.oldest.until(now).as_millis() / 1_000));
            self.targets_away.get_or_create(&of).set(i64::from(away(&depth.provider)));
        }
    }

    /// How many kills of each kind stand.
    pub fn kills(&self, counts: &HashMap<&'static str, usize>) {
        self.kills.clear();
        for (kind, count) in counts {
            self.kills.get_or_create(&ByKind { kind }).set(i64::try_from(*count).unwrap_or(i64::MAX));
        }
    }

    /// The token endpoint answered: `given`, or with an error of OAuth.
    pub fn token_exchange(&self, answer: &'static str) {
        self.token_exchanges.get_or_create(&ByAnswer { answer }).inc();
    }

    /// How long a verified revocation took from when it was first asked.
    pub fn revocation_took(&self, span: Ttl) {
        self.revocation_seconds.observe(span.as_duration().as_secs_f64());
    }

    /// The figures in OpenMetrics text.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).expect("writing to a string");
        text
    }
}
