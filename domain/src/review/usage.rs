//! What was used of one binding.

use std::collections::BTreeMap;

use super::Allowed;
use crate::scope::ScopeAsk;
use crate::spiffe::SpiffeId;
use crate::time::{Timestamp, Ttl};

/// Most identities, and most values of one parameter, that are told apart.
const MOST_TOLD_APART: usize = 4_000;

/// How often, and when last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    /// How often.
    pub times: u64,
    /// When last.
    pub last: Timestamp,
}

/// Counts by what was used.
#[derive(Clone, Debug)]
pub struct Counted<T> {
    by: BTreeMap<T, Count>,
    /// Whether there were more than are told apart.
    pub more: bool,
}

/// What was used of one binding.
#[derive(Clone, Debug, Default)]
pub struct Usage {
    /// Decisions on its scope that somebody it is for asked for: with values that it allows, or denied.
    pub requested: u64,
    /// Those that were denied, by reason.
    pub denied: BTreeMap<String, u64>,
    /// Those that it carried.
    pub used: u64,
    /// Those that it let through for a task above, and tasks that were opened for others by it.
    pub handed_on: u64,
    /// Tasks of direct callers that declared its scope, which takes a binding.
    pub declared: u64,
    /// When it last carried something, or let it through.
    pub last_used: Option<Timestamp>,
    /// Who used it, itself or from above.
    pub identities: Counted<SpiffeId>,
    /// With which values, by parameter.
    pub values: BTreeMap<String, Counted<String>>,
    /// To whom it was handed on by `delegate`.
    pub handed_to: Counted<SpiffeId>,
    /// Uses in root tasks.
    pub in_roots: u64,
    /// Uses in tasks that another opened.
    pub under_parents: u64,
    /// Whether something needed `use` in it.
    pub(super) needs_use: bool,
    /// The furthest it was handed on by `delegate`, in tasks.
    pub(super) depth: u32,
    /// Direct callers whose tasks declared its scope.
    pub(super) declarers: Counted<SpiffeId>,
    /// How long after a task was opened something still hung on it.
    pub(super) longest: Ttl,
    /// Whether of some use that is not known.
    pub(super) of_unknown_age: bool,
}

impl<T> Default for Counted<T> {
    fn default() -> Self {
        Self { by: BTreeMap::new(), more: false }
    }
}

impl<T: Ord + Clone> Counted<T> {
    fn add(&mut self, what: &T, at: Timestamp) {
        let full = self.by.len() >= MOST_TOLD_APART;
        match self.by.get_mut(what) {
            Some(count) => {
                count.times += 1;
                count.last = count.last.max(at);
            }
            None if full => self.more = true,
            None => drop(self.by.insert(what.clone(), Count { times: 1, last: at })),
        }
    }

    /// Whether this was used, as far as it is told apart.
    pub fn has(&self, what: &T) -> bool {
        self.by.contains_key(what)
    }

    /// How many are told apart.
    pub fn len(&self) -> usize {
        self.by.len()
    }

    /// Whether nothing was used.
    pub fn is_empty(&self) -> bool {
        self.by.is_empty()
    }

    /// Each, in order.
    pub fn each(&self) -> impl Iterator<Item = &T> {
        self.by.keys()
    }

    /// The most used, at most so many.
    pub fn most_used(&self, most: usize) -> Vec<(&T, Count)> {
        let mut all: Vec<(&T, Count)> = self.by.iter().map(|(what, count)| (what, *count)).collect();
        all.sort_by(|a, b| b.1.times.cmp(&a.1.times).then(a.0.cmp(b.0)));
        all.truncate(most);
        all
    }
}

impl Usage {
    /// Whether anything was used of it.
    pub fn is_used(&self) -> bool {
        self.used > 0 || self.handed_on > 0
    }

    pub(super) fn requested(&mut self) {
        self.requested += 1;
    }

    pub(super) fn denied(&mut self, reason: &str, times: u64) {
        self.requested += times;
        *self.denied.entry(reason.to_owned()).or_default() += times;
    }

    pub(super) fn declared(&mut self, by: &SpiffeId) {
        self.declared += 1;
        self.declarers.add(by, Timestamp::from_unix_millis(0));
    }

    pub(super) fn carried(&mut self, allowed: &Allowed) {
        self.used += 1;
        self.needs_use = true;
        self.note(&allowed.identity, &allowed.ask, allowed.chain.len() <= 1, allowed.at);
        let until = allowed.age.map(|age| age.as_millis().saturating_add(allowed.ttl.as_millis()));
        self.hung_on(until);
    }

    /// It let a request through for `holder`, `depth` tasks below the root: by `delegate` to those below, or because its
    /// holder may use the scope itself.
    pub(super) fn stood_above(
        &mut self,
        holder: &SpiffeId,
        ask: &ScopeAsk,
        depth: usize,
        handed: Option<&[&SpiffeId]>,
        oldest: Option<Ttl>,
        at: Timestamp,
    ) {
        self.handed_on += 1;
        match handed {
            Some(below) => {
                self.depth = self.depth.max(u32::try_from(below.len()).unwrap_or(u32::MAX));
                below.iter().for_each(|id| self.handed_to.add(id, at));
            }
            None => self.needs_use = true,
        }
        self.note(holder, ask, depth == 0, at);
        // No task of a tree is older than its first.
        self.hung_on(oldest.map(|age| age.as_millis().saturating_add(1)));
    }

    fn note(&mut self, identity: &SpiffeId, ask: &ScopeAsk, in_root: bool, at: Timestamp) {
        self.last_used = self.last_used.max(Some(at));
        self.identities.add(identity, at);
        for (name, value) in &ask.parameters {
            self.values.entry(name.clone()).or_default().add(value, at);
        }
        match in_root {
            true => self.in_roots += 1,
            false => self.under_parents += 1,
        }
    }

    fn hung_on(&mut self, millis: Option<u64>) {
        match millis {
            Some(millis) => self.longest = self.longest.max(Ttl::millis(millis)),
            None => self.of_unknown_age = true,
        }
    }
}
