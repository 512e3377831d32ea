//! Documents laid over those that stand: read, merged, compared and checked whole, before anything is done with them.

use std::collections::BTreeMap;

use dayfly_domain::document::{self, Document, DocumentKey, Fault, Kind};
use dayfly_domain::rules::Rules;
use similar::TextDiff;

use super::{Broker, OperationError, blocking};
use crate::policy;

/// What happens to one document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// It is new.
    Create,
    /// It changes.
    Update,
    /// It goes.
    Delete,
    /// It stays as it is.
    Unchanged,
}

/// One document's change.
#[derive(Debug)]
pub struct DocumentChange {
    /// Which document.
    pub key: DocumentKey,
    /// What happens to it.
    pub verb: Verb,
    /// A unified diff of its YAML; empty if it is unchanged.
    pub diff: String,
}

/// What was written, and what would stand with it.
#[derive(Debug)]
pub struct Draft {
    /// The revision that stands.
    pub revision: u64,
    /// What stands.
    pub stored: BTreeMap<DocumentKey, Document>,
    /// What was written, each with its number.
    pub input: Vec<(u32, Document)>,
    /// What goes.
    pub deletes: Vec<DocumentKey>,
    /// Each document of the input, and each that goes.
    pub changes: Vec<DocumentChange>,
    faults: Vec<Fault>,
}

/// Whether the targets of scopes that change are asked about them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Targets {
    /// What a provider can only learn from its target is learnt.
    Asked,
    /// Nothing outside the broker hears of it.
    LeftAlone,
}

impl Draft {
    /// Reads what was written and compares it with what stands. Nothing of it is run. `prune` selects by labels what goes
    /// if it was not written.
    pub async fn read(
        broker: &Broker,
        yaml: &str,
        prune: Option<&BTreeMap<String, String>>,
    ) -> Result<Self, OperationError> {
        let (revision, stored) = broker.store.load_documents().await?;
        let stored: BTreeMap<DocumentKey, Document> =
            stored.into_iter().map(|row| (row.document.key.clone(), row.document)).collect();
        let (input, faults) = document::parse(yaml);
        let deletes = deletions(&stored, &input, prune);
        let changes = compare(&stored, &input, &deletes);
        Ok(Self { revision, stored, input, deletes, changes, faults })
    }

    /// The rules that would stand, policies loaded and their own tests passed; or every fault.
    pub async fn check(
        mut self,
        broker: &Broker,
        targets: Targets,
    ) -> Result<(Self, Result<Rules, Vec<Fault>>), OperationError> {
        let mut faults = std::mem::take(&mut self.faults);
        let whole = merged(&self.stored, &self.input, &self.deletes);
        let loaded = policy::load(&whole, broker.rules.load_full()).await;
        let (next, domains) = (self.revision + 1, broker.trust_domains.clone());
        let compiled = blocking(move || document::compile(next, &domains, &whole)).await?;
        let rules = match compiled {
            Ok(rules) => Some(rules),
            Err(more) => {
                faults.extend(more);
                None
            }
        };
        let policies = match loaded {
            Ok(policies) => Some(policies),
            Err(more) => {
                faults.extend(more);
                None
            }
        };
        if let Some(rules) = &rules {
            check_targets(broker, rules, &self, targets, &mut faults).await;
        }
        let checked = match (rules, policies) {
            (Some(rules), Some(policies)) if faults.is_empty() => Ok(policy::judged_by(rules, policies)),
            _ => Err(faults),
        };
        Ok((self, checked))
    }
}

/// What stands after the change; documents of the input carry their number.
fn merged(
    stored: &BTreeMap<DocumentKey, Document>,
    input: &[(u32, Document)],
    deletes: &[DocumentKey],
) -> Vec<(u32, Document)> {
    let kept = stored
        .values()
        .filter(|old| !deletes.contains(&old.key) && !input.iter().any(|(_, new)| new.key == old.key))
        .map(|old| (0, old.clone()));
    kept.chain(input.iter().cloned()).collect()
}

fn deletions(
    stored: &BTreeMap<DocumentKey, Document>,
    input: &[(u32, Document)],
    prune: Option<&BTreeMap<String, String>>,
) -> Vec<DocumentKey> {
    let Some(selector) = prune else { return Vec::new() };
    let selected = |document: &&Document| {
        selector.iter().all(|(name, value)| document.labels.get(name) == Some(value))
            && !input.iter().any(|(_, new)| new.key == document.key)
    };
    stored.values().filter(selected).map(|document| document.key.clone()).collect()
}

fn compare(
    stored: &BTreeMap<DocumentKey, Document>,
    input: &[(u32, Document)],
    deletes: &[DocumentKey],
) -> Vec<DocumentChange> {
    let put = input.iter().map(|(_, new)| {
        let old = stored.get(&new.key);
        let verb = match old {
            None => Verb::Create,
            Some(old) if old.digest() == new.digest() => Verb::Unchanged,
            Some(_) => Verb::Update,
        };
        let before = old.map(Document::to_yaml).unwrap_or_default();
        DocumentChange { key: new.key.clone(), verb, diff: diff(&before, &new.to_yaml()) }
    });
    let gone = deletes.iter().map(|key| {
        let before = stored.get(key).map(Document::to_yaml).unwrap_or_default();
        DocumentChange { key: key.clone(), verb: Verb::Delete, diff: diff(&before, "") }
    });
    put.chain(gone).collect()
}

fn diff(before: &str, after: &str) -> String {
    if before == after {
        return String::new();
    }
    TextDiff::from_lines(before, after).unified_diff().context_radius(3).to_string()
}

/// Lets each provider check the scopes that are its own; those that change are also asked of the target itself.
async fn check_targets(
    broker: &Broker,
    rules: &Rules,
    draft: &Draft,
    targets: Targets,
    faults: &mut Vec<Fault>,
) {
    let Draft { changes, input, .. } = draft;
    for scope in rules.scopes() {
        let key = DocumentKey { kind: Kind::Scope, name: scope.name.clone() };
        let number = input.iter().find(|(_, document)| document.key == key).map_or(0, |(number, _)| *number);
        let fault = |path: String, problem: String| Fault {
            document: number,
            subject: key.to_string(),
            path,
            problem,
        };
        let Some(provider) = broker.catalogue().get(&scope.provider) else {
            let names: Vec<&str> = broker.catalogue().names().collect();
            let problem =
                format!("this broker has no provider {:?}; it has {}", scope.provider, names.join(", "));
            faults.push(fault("spec.target".to_owned(), problem));
            continue;
        };
        let mut found = provider.check_scope(scope);
        let changes_it =
            |change: &DocumentChange| change.key == key && matches!(change.verb, Verb::Create | Verb::Update);
        if targets == Targets::Asked && found.is_empty() && changes.iter().any(changes_it) {
            found = provider.probe_scope(scope).await;
        }
        for target in found {
            let dot = if target.path.is_empty() || target.path.starts_with('[') { "" } else { "." };
            let path = format!("spec.target.{}{dot}{}", scope.provider, target.path);
            faults.push(fault(path, target.problem));
        }
    }
}
