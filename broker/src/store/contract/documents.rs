//! The platform team's documents.

use std::collections::BTreeMap;

use dayfly_domain::audit::{Record, Stream};
use dayfly_domain::document::{Document, DocumentKey, Kind};
use serde_json::json;

use super::World;
use super::world::{T0, at};
use crate::store::{Change, StoreError};

fn document(kind: Kind, name: &str, version: u32) -> Document {
    let labels = BTreeMap::from([("team".to_owned(), "ml".to_owned())]);
    let key = DocumentKey { kind, name: name.to_owned() };
    Document { key, labels, spec: json!({"version": version, "text": "ä \"quoted\""}) }
}

fn change(expected_revision: u64, puts: Vec<Document>, deletes: Vec<DocumentKey>) -> Change {
    Change {
        expected_revision,
        puts,
        deletes,
        by: "spiffe://example.org/admin".to_owned(),
        at: at(expected_revision),
    }
}

fn records() -> Vec<Record> {
    vec![Record::new(Stream::Admin, "documents.apply", T0)]
}

pub(crate) async fn documents_are_applied_whole_and_kept(w: &mut World) {
    assert_eq!(w.store().load_documents().await.unwrap(), (0, Vec::new()));
    let (scope, binding) = (document(Kind::Scope, "one", 1), document(Kind::Binding, "one", 1));
    let first = change(0, vec![scope.clone(), binding.clone()], Vec::new());
    assert_eq!(w.store().apply(first, records()).await.unwrap(), 1);
    let newer = document(Kind::Scope, "one", 2);
    let second = change(1, vec![newer.clone()], vec![binding.key.clone()]);
    assert_eq!(w.store().apply(second, records()).await.unwrap(), 2);
    w.reopen().await;

    let (revision, stored) = w.store().load_documents().await.unwrap();
    assert_eq!(revision, 2);
    assert_eq!(stored.len(), 1);
    assert_eq!((&stored[0].document, stored[0].revision, stored[0].applied_at), (&newer, 2, at(1)));
    assert_eq!(stored[0].applied_by, "spiffe://example.org/admin");
    let history = w.store().document_history(Kind::Scope, "one").await.unwrap();
    let history: Vec<_> = history.iter().map(|version| (&version.document, version.revision)).collect();
    assert_eq!(history, [(&scope, 1), (&newer, 2)]);
    let removed = w.store().document_history(Kind::Binding, "one").await.unwrap();
    assert_eq!(removed.len(), 1, "what was removed stays in the history");
    assert_eq!(w.chain(Stream::Admin).await.len(), 2);
}

pub(crate) async fn a_stale_revision_is_refused(w: &mut World) {
    let first = change(0, vec![document(Kind::Scope, "one", 1)], Vec::new());
    w.store().apply(first, records()).await.unwrap();
    let before = w.store().load_documents().await.unwrap();
    for expected in [0, 2] {
        let stale = change(expected, vec![document(Kind::Scope, "two", 1)], Vec::new());
        let refusal = w.store().apply(stale, records()).await;
        assert!(
            matches!(refusal, Err(StoreError::StaleRevision { expected: found, actual: 1 }) if found == expected),
            "{refusal:?}"
        );
    }
    assert_eq!(w.store().load_documents().await.unwrap(), before);
    assert_eq!(w.chain(Stream::Admin).await.len(), 1);
}

pub(crate) async fn documents_are_read_as_they_stood_at_a_revision(w: &mut World) {
    let (old, new) = (document(Kind::Scope, "one", 1), document(Kind::Scope, "one", 2));
    let other = document(Kind::Binding, "one", 1);
    w.store().apply(change(0, vec![old.clone(), other.clone()], Vec::new()), records()).await.unwrap();
    w.store().apply(change(1, vec![new.clone()], vec![other.key.clone()]), records()).await.unwrap();
    w.store().apply(change(2, vec![other.clone()], vec![new.key.clone()]), records()).await.unwrap();
    let at = async |revision| -> Vec<Document> {
        let rows = w.store().documents_at(revision).await.unwrap();
        rows.into_iter().map(|row| row.document).collect()
    };
    assert_eq!(at(0).await, []);
    assert_eq!(at(1).await, [other.clone(), old]);
    assert_eq!(at(2).await, [new]);
    assert_eq!(at(3).await, std::slice::from_ref(&other));
    let now = w.store().load_documents().await.unwrap().1;
    assert_eq!(w.store().documents_at(9).await.unwrap(), now, "nothing is newer than what stands");
}
