//! Under which rules a cached credential was decided, and whether they still stand for its scope.
//!
//! The broker tells the digest of its rules when an agent attaches, and with each change which scopes it touched. What was
//! decided under rules that have changed for its scope is decided anew before it is served again.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Mutex, MutexGuard};

/// Changes further back than this are not remembered one by one: what is older is decided anew.
const MOST_KEPT: usize = 64;

/// The rules of the broker that are known here, the present ones last; each with the scopes that changed since.
#[derive(Debug, Default)]
pub struct Rules(Mutex<VecDeque<(String, BTreeSet<String>)>>);

impl Rules {
    /// These rules stand, as the broker said when we attached. Says whether what was known before is worth nothing:
    /// changes were missed.
    pub fn stand_now(&self, digest: &str) -> bool {
        let mut known = self.lock();
        if known.back().is_some_and(|(last, _)| last == digest) {
            return false;
        }
        known.clear();
        known.push_back((digest.to_owned(), BTreeSet::new()));
        true
    }

    /// The rules of these scopes changed.
    pub fn changed(&self, digest: &str, scopes: &[String]) {
        let mut known = self.lock();
        known.retain(|(known, _)| known != digest);
        for (_, changed) in known.iter_mut() {
            changed.extend(scopes.iter().cloned());
        }
        known.push_back((digest.to_owned(), BTreeSet::new()));
        if known.len() > MOST_KEPT {
            known.pop_front();
        }
    }

    /// Whether a decision about a scope, made under the rules with this digest, stands.
    pub fn stand(&self, digest: &str, scope: &str) -> bool {
        let known = self.lock();
        match known.iter().find(|(known, _)| known == digest) {
            Some((_, changed)) => !changed.contains(scope),
            // A broker that tells no digests decides at each renewal only.
            None => digest.is_empty() || known.iter().all(|(known, _)| known.is_empty()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(String, BTreeSet<String>)>> {
        self.0.lock().expect("no holder of this lock panics")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scopes(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_change_of_one_scope_leaves_decisions_about_others_alone() {
        let rules = Rules::default();
        assert!(rules.stand("1", "s3"), "nobody has said otherwise");
        assert!(rules.stand_now("1"));
        rules.changed("2", &scopes(&["s3"]));
        assert!(!rules.stand("1", "s3") && rules.stand("1", "kv") && rules.stand("2", "s3"));
        rules.changed("3", &scopes(&["kv"]));
        assert!(!rules.stand("1", "kv") && !rules.stand("2", "kv") && rules.stand("2", "s3"));
        assert!(!rules.stand("0", "s3"), "decided under rules nobody told of");
        assert!(rules.stand("", "s3"));
    }

    #[test]
    fn what_changed_while_nobody_listened_voids_everything() {
        let rules = Rules::default();
        rules.stand_now("1");
        assert!(!rules.stand_now("1"), "a stream was lost and nothing changed");
        assert!(rules.stand("1", "s3"));
        assert!(rules.stand_now("3"));
        assert!(!rules.stand("1", "s3") && rules.stand("3", "s3"));
    }

    #[test]
    fn rules_that_come_back_do_not_bring_old_decisions_back() {
        let rules = Rules::default();
        rules.stand_now("1");
        rules.changed("2", &scopes(&["s3"]));
        rules.changed("1", &scopes(&["s3"]));
        assert!(!rules.stand("2", "s3"));
        assert!(rules.stand("1", "s3"), "decided under the very rules that stand");
    }

    #[test]
    fn only_so_many_changes_are_remembered() {
        let rules = Rules::default();
        for digest in 0..=MOST_KEPT {
            rules.changed(&digest.to_string(), &[]);
        }
        assert!(!rules.stand("0", "s3") && rules.stand("1", "s3"));
    }
}
