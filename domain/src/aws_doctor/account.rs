//! Roles and policies, as `get-account-authorization-details` describes them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use thiserror::Error;

/// The text describes no account.
#[derive(Debug, Error)]
#[error("{0}; write it with: aws iam get-account-authorization-details --filter Role LocalManagedPolicy")]
pub struct NotAnAccount(String);

/// An account's roles and its own managed policies.
#[derive(Clone, Debug, Default)]
pub struct Account {
    pub(super) roles: BTreeMap<String, Role>,
    policies: BTreeMap<String, Value>,
}

/// A role.
#[derive(Clone, Debug, Default)]
pub(super) struct Role {
    pub(super) trust: Vec<Statement>,
    /// Inline policies by name.
    pub(super) inline: BTreeMap<String, Vec<Statement>>,
    /// ARNs of the policies that are attached.
    pub(super) attached: Vec<String>,
    /// ARN of its boundary.
    pub(super) boundary: Option<String>,
}

/// A statement, with each list a set. White space, order and the way a single value is written make no difference.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Statement {
    pub(super) allows: bool,
    pub(super) principals: BTreeSet<String>,
    pub(super) actions: BTreeSet<String>,
    pub(super) resources: BTreeSet<String>,
    /// By operator and key, both in lower case.
    pub(super) conditions: BTreeMap<(String, String), BTreeSet<String>>,
    /// `NotAction`, `NotPrincipal` and `NotResource`: what they take in cannot be told.
    pub(super) negated: Vec<String>,
}

impl Account {
    /// Reads it.
    ///
    /// # Errors
    /// What is no such description.
    pub fn read(text: &str) -> Result<Self, NotAnAccount> {
        let tree: Value =
            serde_json::from_str(text).map_err(|error| NotAnAccount(format!("it is not JSON: {error}")))?;
        let list = |key: &str| tree[key].as_array().ok_or_else(|| NotAnAccount(format!("it holds no {key}")));
        let mut account = Account::default();
        for role in list("RoleDetailList")? {
            let Some(arn) = role["Arn"].as_str() else { continue };
            let inline = role["RolePolicyList"].as_array().into_iter().flatten();
            let attached = role["AttachedManagedPolicies"].as_array().into_iter().flatten();
            let read = Role {
                trust: statements(&role["AssumeRolePolicyDocument"]),
                inline: inline
                    .map(|one| (text_of(&one["PolicyName"]), statements(&one["PolicyDocument"])))
                    .collect(),
                attached: attached.map(|one| text_of(&one["PolicyArn"])).collect(),
                boundary: role["PermissionsBoundary"]["PermissionsBoundaryArn"].as_str().map(str::to_owned),
            };
            account.roles.insert(arn.to_owned(), read);
        }
        for policy in list("Policies")? {
            let versions = policy["PolicyVersionList"].as_array().into_iter().flatten();
            let default = versions.into_iter().find(|version| version["IsDefaultVersion"] == true);
            if let (Some(arn), Some(version)) = (policy["Arn"].as_str(), default) {
                account.policies.insert(arn.to_owned(), version["Document"].clone());
            }
        }
        Ok(account)
    }

    /// The statements of a managed policy of the account; none if it is not the account's own.
    pub(super) fn policy(&self, arn: &str) -> Option<Vec<Statement>> {
        self.policies.get(arn).map(statements)
    }
}

fn text_of(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn statements(document: &Value) -> Vec<Statement> {
    match &document["Statement"] {
        Value::Array(several) => several.iter().map(statement).collect(),
        one @ Value::Object(_) => vec![statement(one)],
        _ => Vec::new(),
    }
}

fn statement(tree: &Value) -> Statement {
    let mut conditions = BTreeMap::new();
    for (operator, keys) in tree["Condition"].as_object().into_iter().flatten() {
        for (key, values) in keys.as_object().into_iter().flatten() {
            conditions.insert((operator.to_lowercase(), key.to_lowercase()), set(values));
        }
    }
    let principals = match &tree["Principal"] {
        Value::Object(kinds) => {
            let of = |(kind, values): (&String, &Value)| {
                set(values).into_iter().map(move |value| format!("{kind} {value}")).collect::<Vec<_>>()
            };
            kinds.iter().flat_map(of).collect()
        }
        other => set(other),
    };
    Statement {
        // What is neither is treated as what gives more.
        allows: tree["Effect"] != "Deny",
        principals,
        actions: set(&tree["Action"]),
        resources: set(&tree["Resource"]),
        conditions,
        negated: ["NotAction", "NotPrincipal", "NotResource"]
            .into_iter()
            .filter(|key| tree.get(*key).is_some())
            .map(|key| format!("{key} {}", tree[key]))
            .collect(),
    }
}

fn set(value: &Value) -> BTreeSet<String> {
    match value {
        Value::Array(values) => values.iter().map(text_or_json).collect(),
        Value::Null => BTreeSet::new(),
        one => BTreeSet::from([text_or_json(one)]),
    }
}

fn text_or_json(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

impl Statement {
    /// The values of a condition, whatever the case of its names.
    pub(super) fn condition(&self, operator: &str, key: &str) -> Option<&BTreeSet<String>> {
        self.conditions.get(&(operator.to_lowercase(), key.to_lowercase()))
    }

    /// Whether the condition demands exactly this value.
    pub(super) fn demands(&self, operator: &str, key: &str, value: &str) -> bool {
        self.condition(operator, key).is_some_and(|values| values.len() == 1 && values.contains(value))
    }

    /// Whether an action is among those it names, by their patterns.
    pub(super) fn names(&self, action: &str) -> bool {
        let action = action.to_lowercase();
        self.actions.iter().any(|pattern| fits(pattern.to_lowercase().as_bytes(), action.as_bytes()))
    }

    /// Whether a resource is among those it names, by their patterns.
    pub(super) fn takes_in(&self, resource: &str) -> bool {
        self.resources.iter().any(|pattern| fits(pattern.as_bytes(), resource.as_bytes()))
    }
}

/// Whether a text fits a pattern of IAM: `*` is any text, `?` any one character.
fn fits(pattern: &[u8], text: &[u8]) -> bool {
    // Where to go on if the last star must take in one more.
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(byte) if *byte == b'?' || *byte == text[t] => {
                p += 1;
                t += 1;
            }
            _ => {
                let Some((at, taken)) = star else { return false };
                star = Some((at, taken + 1));
                p = at + 1;
                t = taken + 1;
            }
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}
