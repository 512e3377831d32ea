//! Counts what changes, in groups, within a bounded room.

use std::collections::{BTreeMap, HashMap};

use crate::simulation::{Change, Outcome};
use crate::spiffe::SpiffeId;
use crate::time::{Timestamp, Ttl};

/// Kinds of refusals that are remembered, so that later counts of equal ones find their answer.
const MOST_REMEMBERED: usize = 10_000;

/// What a request was for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subject {
    /// What kind of thing.
    pub what: What,
    /// The scope; the action with what it is on; whom a task was opened for; else empty.
    pub name: String,
}

/// What kind of thing a request was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum What {
    /// A credential, or a longer life of one.
    Credential,
    /// An action on an artifact.
    Action,
    /// A task of the caller's own.
    OpenTask,
    /// A task for another workload.
    DelegateTask,
    /// A task that was opened for the caller.
    ClaimTask,
}

impl What {
    /// Its name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            What::Credential => "credential",
            What::Action => "action",
            What::OpenTask => "open_task",
            What::DelegateTask => "delegate_task",
            What::ClaimTask => "claim_task",
        }
    }
}

/// A recorded request that was decided under both rules.
#[derive(Clone, Debug)]
pub struct Replayed {
    /// When it was made.
    pub at: Timestamp,
    /// Its id.
    pub request: String,
    /// Who asked.
    pub spiffe_id: SpiffeId,
    /// For what.
    pub subject: Subject,
    /// The reason and the scope of its record, where it was refused: equal refusals may be counted behind it.
    pub refused: Option<(String, String)>,
}

/// Refusals that were counted instead of recorded one by one.
#[derive(Clone, Debug)]
pub struct Repeated {
    /// Who was refused.
    pub spiffe_id: SpiffeId,
    /// The reason that was told.
    pub reason: String,
    /// The scope that was named; empty if none was.
    pub scope: String,
    /// When the first of them came.
    pub since: Timestamp,
    /// When they were counted.
    pub at: Timestamp,
    /// How many have no record of their own.
    pub requests: u64,
}

/// Why a request was not decided once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NotReplayed {
    /// Equal refusals that were counted, of which none was replayed.
    CountedOnly,
    /// Another request, or an end, was first: no rule decides that.
    Meanwhile,
    /// The task is not there.
    TaskUnknown,
    /// The record lacks what a decision is made from.
    Unreadable,
}

impl NotReplayed {
    /// The reason's name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            NotReplayed::CountedOnly => "counted_only",
            NotReplayed::Meanwhile => "meanwhile",
            NotReplayed::TaskUnknown => "task_unknown",
            NotReplayed::Unreadable => "unreadable",
        }
    }

    /// The reason in words.
    pub const fn meaning(self) -> &'static str {
        match self {
            NotReplayed::CountedOnly => "equal refusals that were counted, none of which was replayed",
            NotReplayed::Meanwhile => "another request, or an end, was first, which no rule decides",
            NotReplayed::TaskUnknown => "the task of the record is not there",
            NotReplayed::Unreadable => "the record lacks what a decision is made from",
        }
    }
}

/// Requests whose answer changes in the same way.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// How.
    pub change: Change,
    /// Who asked.
    pub spiffe_id: SpiffeId,
    /// For what.
    pub subject: Subject,
    /// `allow` or the reason, under the rules that stand.
    pub before: &'static str,
    /// The same under those that are proposed.
    pub after: &'static str,
    /// What the example would be told, if it would be denied.
    pub message: String,
    /// How long the example's allow holds, before and after.
    pub ttl: (Option<Ttl>, Option<Ttl>),
    /// How many requests.
    pub requests: u64,
    /// The first of them.
    pub first: Timestamp,
    /// The last of them.
    pub last: Timestamp,
    /// Id of the first.
    pub example: String,
}

/// Requests of one change, grouped or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Total {
    /// All of them.
    pub requests: u64,
    /// Those for whose group there was no room.
    pub without_group: u64,
}

/// All that was counted.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// Those that are looked at first standing first, the largest of each change before the others.
    pub groups: Vec<Group>,
    /// Of every change there is.
    pub totals: Vec<(Change, Total)>,
    /// Requests that were decided under both.
    pub replayed: u64,
    /// Those whose answer is the same.
    pub unchanged: u64,
    /// Those that were not, by reason.
    pub not_replayed: Vec<(NotReplayed, u64)>,
}

/// Counts requests as they are replayed.
#[derive(Clone, Debug)]
pub struct Tally {
    /// Groups of one change that are kept.
    most: usize,
    groups: BTreeMap<Key, Group>,
    of_change: BTreeMap<Change, usize>,
    totals: BTreeMap<Change, Total>,
    replayed: u64,
    unchanged: u64,
    not_replayed: BTreeMap<NotReplayed, u64>,
    remembered: HashMap<Refused, (Timestamp, Option<Key>)>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    change: Change,
    spiffe_id: SpiffeId,
    subject: Subject,
    before: &'static str,
    after: &'static str,
}

/// Equal refusals, as they are counted: by identity, reason and scope.
type Refused = (SpiffeId, String, String);

impl Tally {
    /// Keeps at most so many groups of each change; what has no group is counted all the same.
    pub fn new(most: usize) -> Self {
        Self {
            most,
            groups: BTreeMap::new(),
            of_change: BTreeMap::new(),
            totals: BTreeMap::new(),
            replayed: 0,
            unchanged: 0,
            not_replayed: BTreeMap::new(),
            remembered: HashMap::new(),
        }
    }

    /// Counts one request by its two answers.
    pub fn add(&mut self, asked: Replayed, before: &Outcome, after: &Outcome) {
        let Replayed { at, request, spiffe_id, subject, refused } = asked;
        let key = Change::between(before, after).map(|change| Key {
            change,
            spiffe_id: spiffe_id.clone(),
            subject,
            before: code(before),
            after: code(after),
        });
        if let Some((reason, scope)) = refused {
            if self.remembered.len() >= MOST_REMEMBERED {
                self.remembered.clear();
            }
            self.remembered.insert((spiffe_id, reason, scope), (at, key.clone()));
        }
        if let Some(key) = &key {
            self.make_room(key, || Group {
                change: key.change,
                spiffe_id: key.spiffe_id.clone(),
                subject: key.subject.clone(),
                before: key.before,
                after: key.after,
                message: match after {
                    Outcome::Allowed(_) => String::new(),
                    Outcome::Denied { message, .. } => message.clone(),
                },
                ttl: (ttl(before), ttl(after)),
                requests: 0,
                first: at,
                last: at,
                example: request,
            });
        }
        self.count(key.as_ref(), at, 1);
    }

    /// Counts refusals that have no record of their own as the last equal one that has.
    pub fn repeat(&mut self, repeated: Repeated) {
        let Repeated { spiffe_id, reason, scope, since, at, requests } = repeated;
        match self.remembered.get(&(spiffe_id, reason, scope)).filter(|(seen, _)| *seen >= since) {
            Some((_, key)) => {
                let key = key.clone();
                self.count(key.as_ref(), at, requests);
            }
            None => self.skip(NotReplayed::CountedOnly, requests),
        }
    }

    /// Counts requests that could not be decided once more.
    pub fn skip(&mut self, why: NotReplayed, requests: u64) {
        let count = self.not_replayed.entry(why).or_default();
        *count = count.saturating_add(requests);
    }

    /// All that was counted.
    pub fn finish(self) -> Summary {
        let mut groups: Vec<Group> = self.groups.into_values().collect();
        // The map's own order stays among equals.
        groups.sort_by(|a, b| a.change.cmp(&b.change).then(b.requests.cmp(&a.requests)));
        let total = |change| (change, self.totals.get(&change).copied().unwrap_or_default());
        Summary {
            groups,
            totals: Change::ALL.into_iter().map(total).collect(),
            replayed: self.replayed,
            unchanged: self.unchanged,
            not_replayed: self.not_replayed.into_iter().collect(),
        }
    }

    fn make_room(&mut self, key: &Key, group: impl FnOnce() -> Group) {
        let taken = self.of_change.entry(key.change).or_default();
        if !self.groups.contains_key(key) && *taken < self.most {
            *taken += 1;
            self.groups.insert(key.clone(), group());
        }
    }

    fn count(&mut self, key: Option<&Key>, at: Timestamp, requests: u64) {
        self.replayed = self.replayed.saturating_add(requests);
        let Some(key) = key else {
            self.unchanged = self.unchanged.saturating_add(requests);
            return;
        };
        let total = self.totals.entry(key.change).or_default();
        total.requests = total.requests.saturating_add(requests);
        match self.groups.get_mut(key) {
            Some(group) => {
                group.requests = group.requests.saturating_add(requests);
                group.first = group.first.min(at);
                group.last = group.last.max(at);
            }
            None => total.without_group = total.without_group.saturating_add(requests),
        }
    }
}

fn code(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Allowed(_) => "allow",
        Outcome::Denied { reason, .. } => reason,
    }
}

fn ttl(outcome: &Outcome) -> Option<Ttl> {
    match outcome {
        Outcome::Allowed(terms) => terms.as_ref().map(|terms| terms.ttl),
        Outcome::Denied { .. } => None,
    }
}
