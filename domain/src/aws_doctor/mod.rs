//! Looks at an AWS account as its administrators see it: whether the roles of scopes, and the revoker, are such that
//! whoever holds one of the broker's keys gets no more than the threat model says.
//!
//! The account comes from `aws iam get-account-authorization-details --filter Role LocalManagedPolicy`, under the
//! administrator's own credentials: the broker has no right to read any of it, and should not be asked about itself.

mod account;
mod pool;
mod revoker;

#[cfg(test)]
mod tests;

use serde::Serialize;

pub use self::account::{Account, NotAnAccount};
use crate::parameter::{ParameterType, Parameters};
use crate::scope::Scope;
use crate::template::Template;

/// Largest description of an account that is read, in bytes.
pub const MAX_ACCOUNT: usize = 64 * 1024 * 1024;

/// What the account is held against.
#[derive(Clone, Debug)]
pub struct Expected {
    /// The broker's issuer URL without `https://`; `/federation` and `/revocation` are below it.
    pub issuer: String,
    /// The audience of assertions.
    pub audience: String,
    /// Path and name of the revoker's role; none if sessions are left to run out.
    pub revoker: Option<String>,
    /// The roles of each scope.
    pub pools: Vec<Pool>,
}

/// The roles of one scope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// The scope.
    pub scope: String,
    /// ARNs.
    pub roles: Vec<String>,
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// ARN of the role.
    pub role: String,
    /// What is wrong.
    pub what: String,
    /// What it leads to.
    pub why: &'static str,
    /// What to do.
    pub next: &'static str,
}

/// What was looked at, and what was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Roles that were looked at, in order.
    pub roles: Vec<String>,
    /// What is wrong with them.
    pub findings: Vec<Finding>,
}

/// Looks at every role of the scopes, at the revoker, and at who else trusts the broker.
pub fn examine(account: &Account, expected: &Expected) -> Report {
    let mut report = Report::default();
    for pool in &expected.pools {
        for arn in &pool.roles {
            report.roles.push(arn.clone());
            report.findings.extend(pool::examine(account, expected, &pool.scope, arn));
        }
    }
    revoker::examine(account, expected, &mut report);
    report
}

/// The roles that a scope's AWS target stands for, with each choice of its parameters; none if it has no such target.
pub fn pool_of(scope: &Scope) -> Option<Pool> {
    const NAMES: [&str; 2] = ["role_arn", "role_arns"];
    let tree = scope.target.tree().as_object().filter(|_| scope.provider == "aws")?;
    let named: serde_json::Map<_, _> = tree
        .iter()
        .filter(|(key, _)| NAMES.contains(&key.as_str()))
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect();
    let template = Template::parse(named.into(), &scope.parameters).ok()?;
    let mut choices = vec![Parameters::new()];
    for name in NAMES.iter().flat_map(|key| template.parameters_under(key)) {
        let Some(ParameterType::Enum(values)) = scope.parameters.get(&name).map(|spec| &spec.kind) else {
            continue;
        };
        let with = |choice: &Parameters, value: &String| {
            let mut choice = choice.clone();
            choice.insert(name.clone(), value.clone());
            choice
        };
        choices =
            choices.iter().flat_map(|choice| values.iter().map(move |value| with(choice, value))).collect();
    }
    let mut roles = Vec::new();
    for tree in choices.iter().filter_map(|choice| template.render(choice).ok()) {
        let several = tree["role_arns"].as_array().into_iter().flatten();
        for role in several.chain(tree.get("role_arn")).filter_map(|role| role.as_str()) {
            if !roles.iter().any(|known| known == role) {
                roles.push(role.to_owned());
            }
        }
    }
    Some(Pool { scope: scope.name.clone(), roles })
}
