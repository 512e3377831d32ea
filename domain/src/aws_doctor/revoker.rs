//! The role that writes deny documents, and whoever else trusts the broker.

use super::account::{Account, Role};
use super::{Expected, Finding, Report};

/// All that it needs.
const MAY: [&str; 3] = ["iam:PutRolePolicy", "iam:GetRolePolicy", "iam:ListRolePolicies"];
const LIKE: &str = "make it as deploy/aws/revoker-policy.json and revoker-trust-policy.json";

pub(super) fn examine(account: &Account, expected: &Expected, report: &mut Report) {
    let pools: Vec<&str> = expected.pools.iter().flat_map(|pool| &pool.roles).map(String::as_str).collect();
    let mut revokers = Vec::new();
    if let Some(name) = &expected.revoker {
        for pool in &pools {
            let revoker = pool.split_once(":role/").map(|(account, _)| format!("{account}:role/{name}"));
            revokers.extend(revoker.filter(|revoker| !revokers.contains(revoker)));
        }
    }
    for arn in &revokers {
        report.roles.push(arn.clone());
        let say = |what: String, why, next| Finding { role: arn.clone(), what, why, next };
        match account.roles.get(arn) {
            None => report.findings.push(say(
                "the account does not have the revoker".to_owned(),
                "no session can be ended",
                LIKE,
            )),
            Some(_) if pools.contains(&arn.as_str()) => report.findings.push(say(
                "the revoker is a role of a scope".to_owned(),
                "whoever has a session of that scope can end, and un-end, every other",
                LIKE,
            )),
            Some(role) => {
                trust(expected, role, &say, &mut report.findings);
                rights(account, arn, role, &pools, &say, &mut report.findings);
            }
        }
    }
    strangers(account, expected, &pools, &revokers, &mut report.findings);
}

type Say<'a> = &'a dyn Fn(String, &'static str, &'static str) -> Finding;

fn trust(expected: &Expected, role: &Role, say: Say<'_>, findings: &mut Vec<Finding>) {
    let issuer = format!("{}/revocation", expected.issuer);
    let provider = format!(":oidc-provider/{issuer}");
    for statement in role.trust.iter().filter(|statement| statement.allows) {
        let ours =
            |principal: &String| principal.starts_with("Federated arn:") && principal.ends_with(&provider);
        let sound = !statement.principals.is_empty()
            && statement.principals.iter().all(ours)
            && statement.negated.is_empty()
            && statement.demands("StringEquals", &format!("{issuer}:aud"), &expected.audience)
            && statement.demands("StringEquals", &format!("{issuer}:sub"), "dayfly-revoker");
        if !sound {
            let who: Vec<&str> = statement.principals.iter().map(String::as_str).collect();
            findings.push(say(
                format!(
                    "its trust policy takes others than the broker's revoking issuer and subject: {}",
                    who.join(", ")
                ),
                "the key that mints, or somebody else, could write deny documents, and empty them",
                LIKE,
            ));
        }
    }
}

fn rights(
    account: &Account,
    arn: &str,
    role: &Role,
    pools: &[&str],
    say: Say<'_>,
    findings: &mut Vec<Finding>,
) {
    let mut statements: Vec<_> = role.inline.values().flatten().cloned().collect();
    for policy in &role.attached {
        match account.policy(policy) {
            Some(policy) => statements.extend(policy),
            None => findings.push(say(
                format!("the attached policy {policy} is not one of this account"),
                "what it allows is not known here",
                LIKE,
            )),
        }
    }
    statements.retain(|statement| statement.allows);
    for statement in &statements {
        let more: Vec<&str> = statement
            .actions
            .iter()
            .map(String::as_str)
            .filter(|action| !MAY.iter().any(|may| may.eq_ignore_ascii_case(action)))
            .collect();
        if !more.is_empty() || !statement.negated.is_empty() {
            findings.push(say(
                format!("it may do more than read and write inline policies: {}", more.join(", ")),
                "the revoker could grant, or take a boundary or a deny document away",
                LIKE,
            ));
        }
        if statement.names("iam:PutRolePolicy") {
            if statement.takes_in(arn) {
                findings.push(say(
                    "it may write its own policies".to_owned(),
                    "it could give itself everything",
                    "keep the pools' roles under a path that the revoker is not under",
                ));
            }
            if statement.condition("StringLike", "iam:PermissionsBoundary").is_none()
                && statement.condition("StringEquals", "iam:PermissionsBoundary").is_none()
                && statement.condition("ArnLike", "iam:PermissionsBoundary").is_none()
            {
                findings.push(say(
                    "it may write policies of roles that have no boundary".to_owned(),
                    "a role that is put there by mistake can be given everything",
                    LIKE,
                ));
            }
        }
    }
    let of_account = |pool: &&&str| pool.split(":role/").next() == arn.split(":role/").next();
    for pool in pools.iter().filter(of_account) {
        let lacks = MAY.iter().find(|action| {
            !statements.iter().any(|statement| statement.names(action) && statement.takes_in(pool))
        });
        if let Some(action) = lacks {
            findings.push(say(
                format!("it may not {action} on {pool}"),
                "sessions of that role cannot be ended",
                LIKE,
            ));
        }
    }
}

/// Roles that trust the broker's issuers and that nobody named.
fn strangers(
    account: &Account,
    expected: &Expected,
    pools: &[&str],
    revokers: &[String],
    findings: &mut Vec<Finding>,
) {
    let ours = format!(":oidc-provider/{}/", expected.issuer);
    for (arn, role) in &account.roles {
        let trusts =
            role.trust.iter().any(|statement| statement.principals.iter().any(|who| who.contains(&ours)));
        if trusts && !pools.contains(&arn.as_str()) && !revokers.contains(arn) {
            findings.push(Finding {
                role: arn.clone(),
                what: "it trusts the broker's issuers and no scope names it".to_owned(),
                why: "whoever has the broker's keys can assume it, and nothing here says what for",
                next: "name the documents of its scope too, or take the issuer out of its trust policy",
            });
        }
    }
}
