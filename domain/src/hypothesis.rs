//! Requests that nobody made: a caller, and the tree of tasks it would stand in. Questions about access are answered by
//! deciding them.

use std::collections::BTreeMap;

use crate::artifact;
use crate::binding::ViaRule;
use crate::caller::{Caller, Via};
use crate::decision::Wish;
use crate::id::{SessionId, TaskId};
use crate::rules::Rules;
use crate::scope::{Ceiling, ScopeAsk};
use crate::spiffe::SpiffeId;
use crate::stage::Stage;
use crate::task::{Anchor, AnchorKind, Task, TaskState};
use crate::time::{Timestamp, Ttl};

/// Who would ask, and where it would stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hypothesis {
    /// Who asks.
    pub asker: SpiffeId,
    /// Who holds the task it stands in; the asker itself, if nobody is named.
    pub holder: Option<SpiffeId>,
    /// Who holds each task above, root first; none if the asker's own is a root.
    pub above: Vec<SpiffeId>,
    /// The way it comes.
    pub via: ViaRule,
    /// The agent it comes through; if none is named, one that may speak for it.
    pub node: Option<SpiffeId>,
    /// What the tasks hang on; if nothing is said, the strongest there is on that way.
    pub anchor: Option<AnchorKind>,
}

impl Hypothesis {
    /// An identity in a root task of its own.
    pub fn root(asker: SpiffeId, via: ViaRule) -> Self {
        Self { asker, holder: None, above: Vec::new(), via, node: None, anchor: None }
    }

    /// The caller and its tree: tasks opened now, for a day, that declared just this ask.
    pub fn stand(&self, rules: &Rules, ask: &ScopeAsk, now: Timestamp) -> (Caller, Vec<Task>) {
        let node = (self.via == ViaRule::Agent).then(|| {
            let named = self.node.clone().or_else(|| speaker(rules, &self.asker));
            named.unwrap_or_else(|| nobody(self.asker.trust_domain()))
        });
        let via = match &node {
            Some(node) => Via::Agent { node: node.clone() },
            None => Via::Direct { serial: String::new() },
        };
        let own = self.holder.as_ref().unwrap_or(&self.asker);
        let mut lineage: Vec<Task> = Vec::new();
        for (number, holder) in (0u128..).zip(self.above.iter().chain([own])) {
            let id = TaskId::new(now, number);
            lineage.push(Task {
                id,
                session: lineage.first().map_or_else(|| SessionId::from(id), |root| root.session),
                parent: lineage.last().map(|above| above.id),
                opened_by: holder.clone(),
                stage: stage(rules, holder),
                node: node.clone(),
                anchor: self.anchor(),
                key_hash: None,
                ceiling: Ceiling::new(vec![ask.clone()]),
                intent: String::new(),
                labels: BTreeMap::new(),
                offer: None,
                opened_at: now,
                state: TaskState::Open { deadline: now + Ttl::hours(24) },
            });
        }
        (fresh(rules, self.asker.clone(), via, now), lineage)
    }

    fn anchor(&self) -> Anchor {
        let (strongest, attested_by) = match self.via {
            ViaRule::Agent => (AnchorKind::CgroupOwned, "pidfd"),
            ViaRule::Direct => (AnchorKind::Stream, "stream"),
        };
        Anchor {
            kind: self.anchor.unwrap_or(strongest),
            boot_id: String::new(),
            cgroup_id: 0,
            pidfd_inode: 0,
            start_time: 0,
            attested_by: attested_by.to_owned(),
        }
    }
}

/// What an ask would be used for: a credential, or each action that the scope allows.
pub fn wishes(rules: &Rules, ask: &ScopeAsk) -> Vec<Wish> {
    let acts =
        rules.scope(&ask.scope).map(|scope| artifact::acts(scope, &ask.parameters)).unwrap_or_default();
    let wish = |act| Wish { ask: ask.clone(), ttl: None, act };
    match acts.is_empty() {
        true => vec![wish(None)],
        false => acts.into_iter().map(|act| wish(Some(act))).collect(),
    }
}

/// The caller that an identity would be in a task: by the way the task came, with a fresh proof.
pub fn caller_in(rules: &Rules, asker: SpiffeId, task: &Task, now: Timestamp) -> Caller {
    let via = match &task.node {
        Some(node) => Via::Agent { node: node.clone() },
        None => Via::Direct { serial: String::new() },
    };
    fresh(rules, asker, via, now)
}

fn fresh(rules: &Rules, asker: SpiffeId, via: Via, now: Timestamp) -> Caller {
    Caller { stage: stage(rules, &asker), spiffe_id: asker, via, proof_expires_at: now + Ttl::minutes(5) }
}

/// Decisions look the stage up themselves, and deny whom they find in none.
fn stage(rules: &Rules, id: &SpiffeId) -> Stage {
    rules.stage_of(id).unwrap_or(Stage::Tool)
}

/// An agent that may speak for the workload, if the rules have room for one.
pub fn speaker(rules: &Rules, workload: &SpiffeId) -> Option<SpiffeId> {
    let speaking = rules.nodes().iter().filter(|rule| rule.speaks_for(workload));
    let agent = |agents| rules.somebody(std::slice::from_ref(agents), |stage| stage == Stage::Node);
    speaking.map(|rule| &rule.agents).find_map(agent)
}

fn nobody(trust_domain: &str) -> SpiffeId {
    format!("spiffe://{trust_domain}/no/agent").parse().expect("a trust domain and a plain path")
}
