//! Policy documents (AWS, "Grammar of the IAM JSON policy language"), read strictly.

use serde_json::{Map, Value};

use super::PolicyError;
use super::condition::Condition;
use super::json;
use super::pattern::{Pattern, Reading, is_arn};

/// Where a document stands, which decides on its elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Says what a principal may do: an identity's policy, a permissions boundary, a session policy.
    Permissions,
    /// Says who may assume a role.
    Trust,
}

/// What a statement does when it fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    Allow,
    Deny,
}

/// `X` or `NotX`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Listed {
    In(Vec<Pattern>),
    NotIn(Vec<Pattern>),
}

/// One statement.
#[derive(Clone, Debug)]
pub(super) struct Statement {
    pub(super) effect: Effect,
    pub(super) actions: Listed,
    /// None in a trust policy: the role itself is the resource.
    pub(super) resources: Option<Listed>,
    /// ARNs of identity providers; trust policies only.
    pub(super) federated: Vec<String>,
    pub(super) conditions: Vec<Condition>,
}

/// A policy.
#[derive(Clone, Debug)]
pub struct Document {
    pub(super) statements: Vec<Statement>,
}

impl Document {
    /// Reads a policy.
    ///
    /// # Errors
    /// What AWS would refuse, and what this evaluator has no meaning for.
    pub fn parse(text: &str, kind: Kind) -> Result<Self, PolicyError> {
        let value =
            json::strict(text).map_err(|error| PolicyError::Malformed(format!("no JSON: {error}")))?;
        let fields = mapping(&value, "the policy", &["Version", "Id", "Statement"])?;
        let variables = match fields.get("Version").map(Value::as_str) {
            None | Some(Some("2008-10-17")) => false,
            Some(Some("2012-10-17")) => true,
            Some(_) => return PolicyError::malformed("the policy has no known Version"),
        };
        let statements = match fields.get("Statement") {
            Some(Value::Array(list)) if !list.is_empty() => list.iter().collect(),
            Some(one @ Value::Object(_)) => vec![one],
            _ => return PolicyError::malformed("the policy has no statement"),
        };
        let statements = statements.into_iter().map(|value| statement(value, kind, variables));
        Ok(Self { statements: statements.collect::<Result<_, _>>()? })
    }
}

const ELEMENTS: [&str; 9] = [
    "Sid",
    "Effect",
    "Action",
    "NotAction",
    "Resource",
    "NotResource",
    "Principal",
    "NotPrincipal",
    "Condition",
];

fn statement(value: &Value, kind: Kind, variables: bool) -> Result<Statement, PolicyError> {
    let fields = mapping(value, "a statement", &ELEMENTS)?;
    if fields.get("Sid").is_some_and(|sid| !sid.is_string()) {
        return PolicyError::malformed("a Sid is no text");
    }
    let effect = match fields.get("Effect").and_then(Value::as_str) {
        Some("Allow") => Effect::Allow,
        Some("Deny") => Effect::Deny,
        _ => return PolicyError::malformed("a statement has no Effect of Allow or Deny"),
    };
    let fixed = Reading { wildcards: true, variables: false };
    let Some(actions) = listed(fields, "Action", fixed)? else {
        return PolicyError::malformed("a statement has neither Action nor NotAction");
    };
    for action in texts_of(fields, ["Action", "NotAction"])? {
        if action != "*"
            && action.split_once(':').is_none_or(|(service, name)| service.is_empty() || name.is_empty())
        {
            return PolicyError::malformed(format!("the action {action:?} names no service"));
        }
    }
    let resources = listed(fields, "Resource", Reading { wildcards: true, variables })?;
    for resource in texts_of(fields, ["Resource", "NotResource"])? {
        if resource != "*" && !is_arn(&resource) {
            return PolicyError::malformed(format!("the resource {resource:?} is no ARN"));
        }
    }
    if fields.contains_key("NotPrincipal") {
        return PolicyError::unknown("NotPrincipal");
    }
    let principal = fields.get("Principal");
    let federated = match (kind, &resources, principal) {
        (Kind::Permissions, Some(_), None) => Vec::new(),
        (Kind::Permissions, None, _) => {
            return PolicyError::malformed("a statement has neither Resource nor NotResource");
        }
        (Kind::Permissions, _, Some(_)) => return PolicyError::malformed("a statement names a Principal"),
        (Kind::Trust, None, Some(principal)) => federated(principal)?,
        (Kind::Trust, Some(_), _) => return PolicyError::malformed("a trust policy names a resource"),
        (Kind::Trust, None, None) => return PolicyError::malformed("a statement names no Principal"),
    };
    let conditions = match fields.get("Condition") {
        Some(block) => conditions(block, variables)?,
        None => Vec::new(),
    };
    Ok(Statement { effect, actions, resources, federated, conditions })
}

/// Only identity providers; the fake has no other way to assume a role. Accounts and services, which could not be the
/// caller here, are read and fit nobody.
fn federated(principal: &Value) -> Result<Vec<String>, PolicyError> {
    if principal.is_string() {
        return PolicyError::unknown("a Principal for everybody");
    }
    let kinds = mapping(principal, "a Principal", &["Federated", "AWS", "Service"])?;
    if kinds.is_empty() {
        return PolicyError::malformed("a Principal is empty");
    }
    kinds.get("Federated").map_or(Ok(Vec::new()), texts)
}

fn conditions(block: &Value, variables: bool) -> Result<Vec<Condition>, PolicyError> {
    let Some(operators) = block.as_object() else {
        return PolicyError::malformed("a Condition is no mapping");
    };
    let mut all = Vec::new();
    for (operator, keys) in operators {
        let Some(keys) = keys.as_object() else {
            return PolicyError::malformed(format!("{operator} is no mapping"));
        };
        for (key, values) in keys {
            all.push(Condition::parse(operator, key, &texts(values)?, variables)?);
        }
    }
    Ok(all)
}

fn listed(fields: &Map<String, Value>, name: &str, reading: Reading) -> Result<Option<Listed>, PolicyError> {
    let patterns = |value: &Value| -> Result<Vec<Pattern>, PolicyError> {
        let texts = texts(value)?;
        if texts.is_empty() {
            return PolicyError::malformed(format!("{name} is empty"));
        }
        texts.iter().map(|text| Pattern::parse(text, reading)).collect()
    };
    match (fields.get(name), fields.get(&format!("Not{name}"))) {
        (Some(_), Some(_)) => PolicyError::malformed(format!("a statement has both {name} and Not{name}")),
        (Some(value), None) => Ok(Some(Listed::In(patterns(value)?))),
        (None, Some(value)) => Ok(Some(Listed::NotIn(patterns(value)?))),
        (None, None) => Ok(None),
    }
}

fn texts_of(fields: &Map<String, Value>, names: [&str; 2]) -> Result<Vec<String>, PolicyError> {
    names.iter().find_map(|name| fields.get(*name)).map_or(Ok(Vec::new()), texts)
}

/// One value or a list of them. Numbers and truth values count as their text.
fn texts(value: &Value) -> Result<Vec<String>, PolicyError> {
    let text = |value: &Value| match value {
        Value::String(text) => Ok(text.clone()),
        Value::Bool(_) | Value::Number(_) => Ok(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => {
            PolicyError::malformed(format!("{value} is no text"))
        }
    };
    match value {
        Value::Array(list) => list.iter().map(text).collect(),
        one => Ok(vec![text(one)?]),
    }
}

fn mapping<'a>(value: &'a Value, what: &str, known: &[&str]) -> Result<&'a Map<String, Value>, PolicyError> {
    let Some(fields) = value.as_object() else {
        return PolicyError::malformed(format!("{what} is no mapping"));
    };
    match fields.keys().find(|key| !known.contains(&key.as_str())) {
        Some(other) => PolicyError::malformed(format!("{what} has an element {other:?}")),
        None => Ok(fields),
    }
}
