//! A role that sessions are given of.

use std::collections::BTreeSet;

use super::account::{Account, Role, Statement};
use super::{Expected, Finding};

/// The inline policy that is the broker's.
const DENY: &str = "dayfly-deny";
const ASSUME: &str = "sts:AssumeRoleWithWebIdentity";
const CANARY: &str = "dayfly-canary";

/// What nobody who has a session should be able to do: each stands for a group of actions that gives more.
const GIVES: [&str; 12] = [
    "iam:AttachRolePolicy",
    "iam:CreateAccessKey",
    "iam:CreatePolicyVersion",
    "iam:CreateRole",
    "iam:DeleteRolePermissionsBoundary",
    "iam:DeleteRolePolicy",
    "iam:PassRole",
    "iam:PutRolePermissionsBoundary",
    "iam:PutRolePolicy",
    "iam:PutUserPolicy",
    "iam:UpdateAssumeRolePolicy",
    "sts:AssumeRole",
];

pub(super) fn examine(account: &Account, expected: &Expected, scope: &str, arn: &str) -> Vec<Finding> {
    let finding = |what: String, why: &'static str, next: &'static str| Finding {
        role: arn.to_owned(),
        what,
        why,
        next,
    };
    let Some(role) = account.roles.get(arn) else {
        return vec![finding(
            format!("scope {scope} names it and the account does not have it"),
            "STS refuses every session of it",
            "create the role, or correct the scope",
        )];
    };
    let mut findings = Vec::new();
    boundary(account, role, &finding, &mut findings);
    inline(role, &finding, &mut findings);
    trust(expected, scope, role, &finding, &mut findings);
    findings
}

type Say<'a> = &'a dyn Fn(String, &'static str, &'static str) -> Finding;

/// The boundary is what the role may do, and no more.
fn boundary(account: &Account, role: &Role, say: Say<'_>, findings: &mut Vec<Finding>) {
    const WIDER: &str = "who may write the role's inline policies can grant what the boundary leaves open";
    const SAME: &str =
        "attach one policy of the account, and make the same policy the role's permissions boundary";
    let Some(boundary) = &role.boundary else {
        findings.push(say("it has no permissions boundary".to_owned(), WIDER, SAME));
        return;
    };
    let Some(most) = account.policy(boundary) else {
        findings.push(say(format!("its boundary {boundary} is not a policy of this account"), WIDER, SAME));
        return;
    };
    let mut own = BTreeSet::new();
    for arn in &role.attached {
        match account.policy(arn) {
            Some(policy) => own.extend(allowed(policy)),
            None => findings.push(say(
                format!("the attached policy {arn} is not one of this account, and cannot be compared"),
                "AWS may widen it at any time",
                SAME,
            )),
        }
    }
    if most.iter().any(|statement| !statement.negated.is_empty()) {
        findings.push(say(
            "its boundary names what it does not mean (NotAction, NotResource)".to_owned(),
            WIDER,
            SAME,
        ));
    }
    if allowed(most.clone()).collect::<BTreeSet<_>>() != own {
        findings.push(say(
            format!("its boundary {boundary} is not what the attached policies allow"),
            WIDER,
            SAME,
        ));
    }
    let gives: Vec<&str> = GIVES
        .into_iter()
        .filter(|action| most.iter().any(|statement| statement.allows && statement.names(action)))
        .collect();
    if !gives.is_empty() {
        findings.push(say(
            format!("its boundary allows {}", gives.join(", ")),
            "a session that may write policies, or assume other roles, outlives its own end",
            "take these actions out of the policy",
        ));
    }
}

fn allowed(policy: Vec<Statement>) -> impl Iterator<Item = Statement> {
    policy.into_iter().filter(|statement| statement.allows)
}

/// The inline space is for the deny document.
fn inline(role: &Role, say: Say<'_>, findings: &mut Vec<Finding>) {
    for (name, statements) in &role.inline {
        if name != DENY {
            findings.push(say(
                format!("it has the inline policy {name:?}"),
                "inline policies share 10,240 characters: the deny document may not fit beside it",
                "move what it says into the attached policy and the boundary, and delete it",
            ));
        } else if statements.iter().any(|statement| statement.allows) {
            findings.push(say(
                format!("its inline policy {DENY:?} allows something"),
                "the broker never writes that: somebody has the revoker's rights",
                "treat it as an incident; the broker writes the document anew within a minute",
            ));
        }
    }
}

/// Who may assume it: the broker, for this scope, and its canary.
fn trust(expected: &Expected, scope: &str, role: &Role, say: Say<'_>, findings: &mut Vec<Finding>) {
    const LIKE: &str = "make it as deploy/aws/role-trust-policy.json";
    let issuer = format!("{}/federation", expected.issuer);
    let provider = format!(":oidc-provider/{issuer}");
    let mut given = BTreeSet::new();
    for statement in role.trust.iter().filter(|statement| statement.allows) {
        let others: Vec<&str> = statement
            .principals
            .iter()
            .filter(|principal| !(principal.starts_with("Federated arn:") && principal.ends_with(&provider)))
            .map(String::as_str)
            .collect();
        if !others.is_empty() || !statement.negated.is_empty() || statement.principals.is_empty() {
            findings.push(say(
                format!("it trusts others than the broker's minting issuer: {}", others.join(", ")),
                "their sessions have no slot and no lease; whoever revokes must not be able to use",
                LIKE,
            ));
            continue;
        }
        let lacks =
            |what: &str| say(format!("a statement of its trust policy does not demand {what}"), LOOSE, LIKE);
        if !statement.demands("StringEquals", &format!("{issuer}:aud"), &expected.audience) {
            findings.push(lacks(&format!("the audience {}", expected.audience)));
        }
        if !statement.demands("StringLike", "aws:RequestTag/dayfly-slot", "???") {
            findings.push(lacks("a slot (aws:RequestTag/dayfly-slot like ???)"));
        }
        if !statement.names(ASSUME) {
            continue;
        }
        if !statement.demands("Bool", "sts:RoleAuthorizedByIdp", "true") {
            findings.push(lacks("that the assertion names the role (sts:RoleAuthorizedByIdp)"));
        }
        let subject = format!("{issuer}:sub");
        let subjects =
            ["StringEquals", "StringLike"].iter().find_map(|like| statement.condition(like, &subject));
        if subjects.is_none_or(|subjects| subjects.contains("*") || subjects.is_empty()) {
            findings.push(lacks("a subject"));
        }
        match statement.condition("StringEquals", "aws:RequestTag/dayfly-scope") {
            Some(scopes) if scopes.len() == 1 => given.extend(scopes.clone()),
            _ => findings.push(lacks("one scope (aws:RequestTag/dayfly-scope)")),
        }
    }
    for wanted in [scope, CANARY] {
        if !given.remove(wanted) {
            findings.push(say(
                format!("its trust policy has no statement for {wanted}"),
                if wanted == CANARY {
                    "no canary can show that a session ended"
                } else {
                    "STS refuses the scope's sessions"
                },
                LIKE,
            ));
        }
    }
    for other in given {
        findings.push(say(
            format!("its trust policy takes the scope {other} too"),
            "one role stands for one scope: what one may do, the other may",
            "give each scope roles of its own",
        ));
    }
}

const LOOSE: &str = "an assertion that was made for something else may be traded for the role";
