//! Allow or deny: on caller, task, chain, scope, parameters and time, all as they stand at the moment of the request.
//!
//! [`decide`] is the only place that says yes. [`explain`] walks the same way and writes down every step, and whatever
//! answers a question about access asks one of the two.

mod act;
mod binding;
mod facts;
mod open;
mod reason;
mod walk;
mod witness;

use std::sync::Arc;

use crate::caller::Caller;
use crate::policy::{Artifact, Narrowing};
use crate::rules::Rules;
use crate::scope::{Scope, ScopeAsk};
use crate::spiffe::SpiffeId;
use crate::task::Task;
use crate::time::{Timestamp, Ttl};

pub use self::act::{Ruling, decide_act};
use self::facts::Facts;
pub use self::open::{Opening, check_claim, check_delegate, check_on_behalf, check_open, explain_opening};
pub use self::reason::DenyReason;
pub use self::witness::Step;
use self::witness::{Notes, Silent};

/// One credential wanted, or one action on an artifact, as the caller asked for it.
#[derive(Clone, Debug)]
pub struct Wish {
    /// Scope and values; claimed.
    pub ask: ScopeAsk,
    /// How long it is wanted for; absent means the scope's default.
    pub ttl: Option<Ttl>,
    /// The action and what it is on, where no credential is asked for.
    pub act: Option<Act>,
}

/// An action on an artifact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Act {
    /// `load-model`, `call-tool`, `query-index` …
    pub action: String,
    /// What it is on.
    pub artifact: Artifact,
}

/// Allow or deny.
#[derive(Clone, Debug)]
pub enum Decision {
    /// The credential may be issued, within these bounds.
    Allow(Grant),
    /// It may not.
    Deny(Denial),
}

/// What was allowed.
#[derive(Clone, Debug)]
pub struct Grant {
    /// The scope, as it stood.
    pub scope: Arc<Scope>,
    /// The checked request.
    pub ask: ScopeAsk,
    /// How long the credential may live: never past the task's deadline, the end of the binding or of the approval.
    pub ttl: Ttl,
    /// Name of the binding that carried it.
    pub binding: String,
    /// Digest of the binding.
    pub binding_digest: String,
    /// The tree above, root first: who holds each task.
    pub chain: Vec<SpiffeId>,
    /// What policies took away. The time is already cut.
    pub narrowing: Narrowing,
    /// Name and digest of each policy that was asked.
    pub policies: Vec<(String, String)>,
    /// Id of the approval it rests on, where the scope wants one.
    pub approval: Option<String>,
    /// Revision of the rules.
    pub revision: u64,
    /// Digest of the rules.
    pub rules_digest: String,
}

/// What was denied, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// Stable code for the caller.
    pub reason: DenyReason,
    /// What the caller is told.
    pub message: String,
    /// What the caller can do next.
    pub next: String,
    /// What was looked at, for the record only: it names rules the caller may not know.
    pub trace: Vec<String>,
}

/// A decision with every step that led to it, and those that would have followed.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// What [`decide`] says.
    pub decision: Decision,
    /// In the order they were taken; bindings with the fewest misses first.
    pub steps: Vec<Step>,
}

/// Decides whether a caller may have a credential under a task, or act on an artifact.
///
/// `lineage` is the tree above the task, root first, the task itself last; each as it stands in the database now.
pub fn decide(rules: &Rules, caller: &Caller, lineage: &[Task], wish: &Wish, now: Timestamp) -> Decision {
    let facts = Facts { rules, caller, lineage, wish, now };
    match walk::walk(&facts, &mut Silent) {
        Ok(grant) => Decision::Allow(grant),
        Err(mut denial) => {
            // Only denials pay for their trace. It looks at a bounded number of bindings.
            let mut notes = Notes::for_the_record();
            let _ = walk::walk(&facts, &mut notes);
            denial.trace = notes.into_steps().iter().map(ToString::to_string).collect();
            Decision::Deny(denial)
        }
    }
}

/// Decides as [`decide`] does, and tells every step: each rule that was looked at, whether it held, and what it said.
pub fn explain(rules: &Rules, caller: &Caller, lineage: &[Task], wish: &Wish, now: Timestamp) -> Explanation {
    let facts = Facts { rules, caller, lineage, wish, now };
    let mut notes = Notes::whole();
    let decision = match walk::walk(&facts, &mut notes) {
        Ok(grant) => Decision::Allow(grant),
        Err(denial) => Decision::Deny(denial),
    };
    Explanation { decision, steps: notes.into_steps() }
}

#[cfg(test)]
mod tests;
