//! The approvals that stood at the moments of recorded requests.

use std::collections::HashMap;

use dayfly_domain::approval::{Approval, ApprovalRequest};
use dayfly_domain::rules::Rules;
use dayfly_domain::time::Timestamp;

use super::super::past::{approval, was_approved_by};

/// Every approval that could have allowed one of the requests.
#[derive(Debug)]
pub(super) struct Approvals {
    /// Those that stand, by the moment of their yes.
    approved: Vec<(Timestamp, Approval)>,
    /// Those that were taken back since. They stood for the requests whose records name them.
    withdrawn: HashMap<String, Approval>,
    /// Which are in the rules: the first so many, and one that was taken back.
    laid: Option<(usize, Option<String>)>,
}

impl Approvals {
    pub(super) fn new(all: &[ApprovalRequest], since: Timestamp) -> Self {
        let relevant = || all.iter().filter(|request| request.until > since);
        let said_at = |request: &ApprovalRequest| request.verdict.as_ref().map(|verdict| verdict.at);
        let stands =
            |request: &&ApprovalRequest| said_at(request).is_some_and(|said| was_approved_by(request, said));
        let dated = |request: &ApprovalRequest| said_at(request).map(|said| (said, approval(request)));
        let mut approved: Vec<(Timestamp, Approval)> = relevant().filter(stands).filter_map(dated).collect();
        approved.sort_by_key(|(said, _)| *said);
        let gone = relevant().filter(|request| !stands(request)).map(approval);
        let withdrawn = gone.map(|approval| (approval.id.clone(), approval)).collect();
        Self { approved, withdrawn, laid: None }
    }

    /// Puts those into both rules that stood at the moment, and the one that the record names.
    pub(super) fn lay(&mut self, at: Timestamp, named: Option<&str>, rules: [&mut Rules; 2]) {
        let count = self.approved.partition_point(|(said, _)| *said <= at);
        let named = named.filter(|id| self.withdrawn.contains_key(*id));
        let same = |(laid, gone): &(usize, Option<String>)| *laid == count && gone.as_deref() == named;
        if self.laid.as_ref().is_some_and(same) {
            return;
        }
        let standing = self.approved[..count].iter().map(|(_, approval)| approval);
        let standing: Vec<Approval> = standing.chain(named.map(|id| &self.withdrawn[id])).cloned().collect();
        for one in rules {
            *one = std::mem::take(one).with_approvals(standing.clone());
        }
        self.laid = Some((count, named.map(str::to_owned)));
    }
}
