//! What only a broker can tell: what stands, which trust domains its configuration admits, what was used, and whether a
//! target would take a scope without `leaves_behind`.

use std::collections::BTreeSet;

use dayfly_client::v1;
use dayfly_domain::document::{self, Document, Fault, Kind};
use dayfly_domain::lint::{self, Finding};
use dayfly_domain::node::TrustDomainRule;
use dayfly_domain::time::Ttl;

use crate::connect::{Admin, answer};
use crate::documents;
use crate::failure::Failure;
use crate::output;
use crate::review::{self, BindingView, Verdict};
use crate::wire::{self, At};

/// Every document that stands.
pub async fn stored(admin: &Admin, faults: &mut Vec<Fault>) -> Result<Vec<Document>, Failure> {
    let mut stored = Vec::new();
    for kind in Kind::ALL {
        for view in documents::all(admin, kind).await?.documents {
            let (read, found) = document::parse(&view.yaml);
            stored.extend(read.into_iter().map(|(_, document)| document));
            faults.extend(found);
        }
    }
    Ok(stored)
}

/// The trust domains of the broker's configuration.
pub async fn trust_domains(admin: &Admin) -> Result<Vec<TrustDomainRule>, Failure> {
    let request = v1::ListDocumentsRequest { kind: Kind::Stage.as_str().to_owned() };
    let told = answer(admin.client().list_documents(request)).await?.trust_domains;
    let rule = |wire: v1::TrustDomain| TrustDomainRule {
        stages: wire.stages.iter().filter_map(|stage| stage.parse().ok()).collect(),
        patterns: wire.patterns.iter().filter_map(|pattern| pattern.parse().ok()).collect(),
        name: wire.name,
    };
    Ok(told.into_iter().map(rule).collect())
}

/// Bindings that stood all the while, of which less would have sufficed. Those that the file changes are not judged by
/// what was used of what they were.
pub async fn by_use(admin: &Admin, back: Ttl, changed: &BTreeSet<String>) -> Result<Vec<Finding>, Failure> {
    let request = v1::ReviewRequest { since: Some(wire::duration(back)), ..v1::ReviewRequest::default() };
    let review = review::ask(admin, request).await?;
    if review.read_to.is_some() || review.more {
        output::note(
            "not every binding was held against its use: there is too much of it; give a shorter --since",
        );
    }
    let Some(since) = review.since else { return Ok(Vec::new()) };
    let stood = |one: &&BindingView| one.applied_at.is_some_and(|applied| applied.0 <= since.0);
    let judged = review.bindings.iter().filter(|one| !changed.contains(&one.bound.binding)).filter(stood);
    Ok(judged.filter_map(|one| finding(one, since)).collect())
}

fn finding(one: &BindingView, since: At) -> Option<Finding> {
    let (name, since) = (&one.bound.binding, since.to_string());
    match one.verdict {
        Verdict::Narrow => Some(lint::wider_than_use(name, &since, &one.taken)),
        Verdict::RemoveUnused | Verdict::Undeclare => Some(lint::never_used(name, &since)),
        // What has ended is told by its document.
        Verdict::RemoveEnded | Verdict::Keep | Verdict::Withheld => None,
    }
}

/// Scopes whose target would be applied without `leaves_behind` just as well. Asked of the broker, which looks at
/// templates, and at the policies in Vault.
pub async fn needless_leaves_behind(admin: &Admin, whole: &[(u32, Document)]) -> Vec<Finding> {
    let declares = |document: &&Document| {
        let looked_at = ["aws", "vault"].iter().any(|provider| !document.spec["target"][provider].is_null());
        document.key.kind == Kind::Scope && looked_at && !document.spec["leaves_behind"].is_null()
    };
    let mut findings = Vec::new();
    for document in whole.iter().map(|(_, document)| document).filter(declares) {
        let mut without = document.clone();
        if let Some(spec) = without.spec.as_object_mut() {
            spec.remove("leaves_behind");
        }
        let request =
            v1::ApplyRequest { yaml: without.to_yaml(), dry_run: true, ..v1::ApplyRequest::default() };
        match answer(admin.client().apply(request)).await {
            Ok(answer) if answer.faults.is_empty() => {
                findings.push(lint::needless_leaves_behind(&document.key.name));
            }
            Ok(_) => {}
            Err(failure) => {
                let why = failure.told.message;
                output::note(&format!("whether `leaves_behind` is needed was not looked at: {why}"));
                break;
            }
        }
    }
    findings
}
