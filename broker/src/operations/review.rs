//! What bindings give, what was used of it, and the narrower documents that would have sufficed: reads the records →
//! counts them → proposes.

mod records;

use std::collections::HashMap;
use std::sync::Arc;

use dayfly_domain::audit::Stream;
use dayfly_domain::document::{self, DocumentKey, Kind};
use dayfly_domain::review::{Proposal, Reviewed, Tally, Wanted};
use dayfly_domain::rules::Rules;
use dayfly_domain::time::{Timestamp, Ttl};

use super::past::LATEST_RECORD;
use super::{Broker, OperationError, blocking};
use crate::store::StoredDocument;

/// Records that are read for one answer.
const RECORDS_REVIEWED: u64 = 2_000_000;
/// Records that are read at once.
const RECORDS_AT_ONCE: u32 = 1_000;
/// Bindings in one answer.
const MOST_BINDINGS: usize = 500;

/// The answer.
#[derive(Debug)]
pub struct Review {
    /// When.
    pub at: Timestamp,
    /// The first moment that counts.
    pub since: Timestamp,
    /// Under which revision of the documents.
    pub revision: u64,
    /// Decisions that were counted.
    pub decisions: u64,
    /// Up to when records were read, where there are more than are read for one answer.
    pub read_to: Option<Timestamp>,
    /// By scope and name.
    pub bindings: Vec<ReviewedBinding>,
    /// Whether some were left out.
    pub more: bool,
}

/// A binding with its document.
#[derive(Debug)]
pub struct ReviewedBinding {
    /// Figures and proposal.
    pub reviewed: Reviewed,
    /// When the document was last changed.
    pub applied_at: Option<Timestamp>,
    /// The narrower document as YAML, where one is proposed.
    pub proposal: Option<String>,
}

/// Reviews what is wanted, over the last while.
pub async fn review(broker: &Arc<Broker>, wanted: Wanted, back: Ttl) -> Result<Review, OperationError> {
    let (rules, now) = (broker.rules.load_full(), broker.clock.now());
    check(&rules, &wanted)?;
    let since = now - back;
    let (_, stored) = broker.store.load_documents().await?;
    let tally = Tally::new(Arc::clone(&rules), wanted, now);
    let (tally, read_to) = count(broker, tally, since).await?;
    let decisions = tally.decisions;
    let told = blocking(move || {
        let documents: HashMap<DocumentKey, StoredDocument> =
            stored.into_iter().map(|row| (row.document.key.clone(), row)).collect();
        let mut reviewed = tally.finish(read_to.is_none());
        let more = reviewed.len() > MOST_BINDINGS;
        reviewed.truncate(MOST_BINDINGS);
        let bindings = reviewed.into_iter().map(|one| with_document(one, &documents)).collect();
        (bindings, more)
    });
    let (bindings, more) = told.await?;
    Ok(Review { at: now, since, revision: rules.revision, decisions, read_to, bindings, more })
}

/// What is named is there.
fn check(rules: &Rules, wanted: &Wanted) -> Result<(), OperationError> {
    let unknown = |kind, name: &str| Err(OperationError::Unknown { kind, name: name.to_owned() });
    if let Some(name) = wanted.scope.as_deref().filter(|name| rules.scope(name).is_none()) {
        return unknown("scope", name);
    }
    let there = |name: &str| {
        rules.scopes().flat_map(|scope| rules.bindings_of(&scope.name)).any(|binding| binding.name == name)
    };
    match wanted.binding.as_deref().filter(|name| !there(name)) {
        Some(name) => unknown("binding on a target's scope", name),
        None => Ok(()),
    }
}

/// Counts page by page, beside the threads that serve. Tells up to when, if there is more than is read.
async fn count(
    broker: &Broker,
    mut tally: Tally,
    since: Timestamp,
) -> Result<(Tally, Option<Timestamp>), OperationError> {
    let Some(first) = broker.store.audit_since(Stream::Decision, since - LATEST_RECORD).await? else {
        return Ok((tally, None));
    };
    let mut next = first;
    let mut last = since;
    while next - first < RECORDS_REVIEWED {
        let rows = broker.store.audit(Stream::Decision, next, RECORDS_AT_ONCE).await?;
        let Some(newest) = rows.last() else { return Ok((tally, None)) };
        (next, last) = (newest.seq + 1, newest.at);
        let whole = rows.len() >= RECORDS_AT_ONCE as usize;
        tally = blocking(move || {
            let recent = rows.iter().filter(|row| row.at >= since);
            recent.filter_map(records::read).for_each(|record| tally.add(&record));
            tally
        })
        .await?;
        if !whole {
            return Ok((tally, None));
        }
    }
    Ok((tally, Some(last)))
}

fn with_document(reviewed: Reviewed, documents: &HashMap<DocumentKey, StoredDocument>) -> ReviewedBinding {
    let key = DocumentKey { kind: Kind::Binding, name: reviewed.binding.name.clone() };
    let stored = documents.get(&key);
    let proposal = match (&reviewed.proposal, stored) {
        (Some(Proposal::Narrow { binding, .. }), Some(stored)) => {
            Some(document::rewritten(&stored.document, binding).to_yaml())
        }
        _ => None,
    };
    ReviewedBinding { applied_at: stored.map(|row| row.applied_at), proposal, reviewed }
}
