//! What each relying party of a compromised key must do: derived from the scopes whose credentials it signs.

use std::collections::BTreeMap;

use dayfly_domain::artifact;
use dayfly_domain::rules::Rules;
use dayfly_domain::scope::Scope;
use dayfly_domain::time::Timestamp;
use serde::Serialize;

use crate::providers::aws;
use crate::providers::token::{self, Checked, Target};
use crate::public::Issuers;
use crate::signer::Use;

/// What one relying party must do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Consequence {
    /// Who.
    pub party: String,
    /// The scopes that make it a relying party.
    pub scopes: Vec<String>,
    /// What it must do; empty if nothing.
    pub todo: String,
}

/// What follows from a key that somebody else has, the most urgent first.
pub fn consequences(rules: &Rules, purpose: Use, issuers: &Issuers, now: Timestamp) -> Vec<Consequence> {
    // Urgency, party and what to do; the scopes of one party stand together.
    let mut told: BTreeMap<(u8, String, String), Vec<String>> = BTreeMap::new();
    for scope in rules.scopes() {
        let one = match purpose {
            Use::Access => of_access(scope, issuers),
            Use::Federation => of_federation(scope, issuers, now),
            Use::Receipt => of_receipt(scope, issuers),
            Use::Revocation => of_revocation(scope, issuers),
        };
        if let Some(one) = one {
            told.entry(one).or_default().push(scope.name.clone());
        }
    }
    let told = told.into_iter().map(|((_, party, todo), mut scopes)| {
        scopes.sort();
        Consequence { party, scopes, todo }
    });
    let readers = Consequence {
        party: format!("whoever else keeps keys of {}", issuers.url(purpose)),
        scopes: Vec::new(),
        todo: format!(
            "read {} anew, and export it anew where it is served as a file",
            issuers.jwks_uri(purpose)
        ),
    };
    told.chain([readers]).collect()
}

fn of_access(scope: &Scope, issuers: &Issuers) -> Option<(u8, String, String)> {
    if scope.provider != token::NAME {
        return None;
    }
    let tree = scope.target.tree();
    let party =
        format!("service {}", tree["audience"].as_str().unwrap_or("of an audience that cannot be read"));
    // What cannot be read is taken for the worse.
    match Target::read(tree).map(|target| target.checked) {
        Ok(Checked::Introspect) => Some((2, party, String::new())),
        Ok(Checked::Offline) | Err(_) => Some((
            1,
            party,
            format!(
                "read {} anew now: until then it takes tokens of whoever has the key; then look for requests that no \
                 lease explains",
                issuers.jwks_uri(Use::Access)
            ),
        )),
    }
}

fn of_federation(scope: &Scope, issuers: &Issuers, now: Timestamp) -> Option<(u8, String, String)> {
    if scope.provider != aws::NAME {
        return None;
    }
    // IAM names an OIDC provider by its URL without the scheme.
    let issuer = issuers.url(Use::Federation);
    let provider = issuer.split_once("://").map_or(issuer, |(_, rest)| rest);
    let todo = format!(
        "AWS keeps the old key for a time it does not tell, so first cut it off: take oidc-provider/{provider} out of the \
         role's trust policy, or delete that OIDC provider; then deny the sessions that were taken with it: an inline \
         policy on the role with Effect Deny, Action *, Resource *, Condition {{\"DateLessThan\": \
         {{\"aws:TokenIssueTime\": \"{now}\"}}}}, the moment being that of the cut; then trust it again"
    );
    Some((0, roles_of(scope), todo))
}

fn of_revocation(scope: &Scope, issuers: &Issuers) -> Option<(u8, String, String)> {
    if scope.provider != aws::NAME {
        return None;
    }
    let issuer = issuers.url(Use::Revocation);
    let provider = issuer.split_once("://").map_or(issuer, |(_, rest)| rest);
    let todo = format!(
        "whoever has the key can give nothing, but end sessions and revive ended ones: take oidc-provider/{provider} out of \
         the trust policy of the revoker's role, look for the alarm deny_document_changed, then trust it again"
    );
    Some((0, roles_of(scope), todo))
}

/// The roles of an AWS scope, as they are written.
fn roles_of(scope: &Scope) -> String {
    let tree = scope.target.tree();
    let several = tree["role_arns"].as_array().into_iter().flatten();
    let roles: Vec<&str> = several.chain(tree.get("role_arn")).filter_map(|role| role.as_str()).collect();
    match roles[..] {
        [] => "AWS role of a scope that cannot be read".to_owned(),
        [one] => format!("AWS role {one}"),
        _ => format!("AWS roles {}", roles.join(", ")),
    }
}

fn of_receipt(scope: &Scope, issuers: &Issuers) -> Option<(u8, String, String)> {
    (scope.provider == artifact::PROVIDER).then(|| {
        let todo = format!(
            "give its guards {} now: they check offline, and until then take receipts of whoever has the key",
            issuers.jwks_uri(Use::Receipt)
        );
        (1, "guards of artifacts".to_owned(), todo)
    })
}
