//! Checks of a session policy as it is written, before any value stands in it. AWS says what is malformed only when a
//! session is asked for; here every fault is told when the scope is applied.

use dayfly_domain::template::TemplateFault;
use serde_json::{Map, Value};

use super::escapes;

/// Characters of a session policy; AWS counts the text as sent (botocore, `sts/2011-06-15`, `sessionPolicyDocumentType`).
pub(super) const LONGEST_POLICY: usize = 2048;

/// Condition operators that are true when the values match (AWS, "IAM JSON policy elements: Condition operators").
const POSITIVE: [&str; 19] = [
    "ArnEquals",
    "ArnLike",
    "BinaryEquals",
    "Bool",
    "DateEquals",
    "DateGreaterThan",
    "DateGreaterThanEquals",
    "DateLessThan",
    "DateLessThanEquals",
    "IpAddress",
    "Null",
    "NumericEquals",
    "NumericGreaterThan",
    "NumericGreaterThanEquals",
    "NumericLessThan",
    "NumericLessThanEquals",
    "StringEquals",
    "StringEqualsIgnoreCase",
    "StringLike",
];

/// Condition operators that are true when the values do not match.
const NEGATED: [&str; 8] = [
    "ArnNotEquals",
    "ArnNotLike",
    "DateNotEquals",
    "NotIpAddress",
    "NumericNotEquals",
    "StringNotEquals",
    "StringNotEqualsIgnoreCase",
    "StringNotLike",
];

/// What the scope says of actions whose effect outlasts the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Escapes {
    /// Nothing, so there may be none.
    Refused,
    /// What they leave behind; it promises no more than the session's expiry.
    Declared,
}

/// Tells every fault of a policy, with its path below `spec.target.aws`.
pub(super) fn check(policy: &Value, escapes: Escapes) -> Vec<TemplateFault> {
    let mut faults = Faults { found: Vec::new(), escapes };
    check_policy(policy, &mut faults);
    faults.found
}

fn check_policy(policy: &Value, faults: &mut Faults) {
    let path = "session_policy";
    let Value::Object(fields) = policy else {
        return faults.add(path, "expected a policy document, as a mapping with Version and Statement");
    };
    for key in fields.keys().filter(|key| !["Version", "Statement"].contains(&key.as_str())) {
        faults.add(&format!("{path}.{key}"), "unknown element; a session policy has Version and Statement");
    }
    if fields.get("Version").and_then(Value::as_str) != Some("2012-10-17") {
        faults.add(
            &format!("{path}.Version"),
            "must be \"2012-10-17\"; an older version knows no policy variables",
        );
    }
    let path = format!("{path}.Statement");
    let statements: Vec<(String, &Value)> = match fields.get("Statement") {
        Some(one @ Value::Object(_)) => vec![(path, one)],
        Some(Value::Array(many)) if !many.is_empty() => {
            many.iter().enumerate().map(|(index, one)| (format!("{path}[{index}]"), one)).collect()
        }
        _ => return faults.add(&path, "expected at least one statement"),
    };
    for (path, statement) in &statements {
        check_statement(statement, path, faults);
    }
    if statements.iter().all(|(_, statement)| statement["Effect"] == "Deny") {
        faults.add(
            "session_policy.Statement",
            "nothing is allowed; a session has only what this policy allows",
        );
    }
}

/// Whether a statement gives or takes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Effect {
    Allow,
    Deny,
}

fn check_statement(statement: &Value, path: &str, faults: &mut Faults) {
    let Value::Object(fields) = statement else {
        faults.add(path, "expected a mapping with Effect, Action and Resource");
        return;
    };
    for key in fields.keys() {
        let problem = match key.as_str() {
            "Sid" | "Effect" | "Action" | "Resource" | "Condition" => continue,
            "NotAction" | "NotResource" => {
                "takes in all that is not named, tomorrow's too; name what is meant"
            }
            "Principal" | "NotPrincipal" => "a session policy names no principal: it is for its own session",
            _ => "unknown element; a statement has Sid, Effect, Action, Resource and Condition",
        };
        faults.add(&format!("{path}.{key}"), problem);
    }
    if let Some(sid) = fields.get("Sid") {
        let plain =
            sid.as_str().is_some_and(|sid| !sid.is_empty() && sid.bytes().all(|b| b.is_ascii_alphanumeric()));
        if !plain {
            faults.add(&format!("{path}.Sid"), "expected letters and digits");
        }
    }
    let effect = match fields.get("Effect").and_then(Value::as_str) {
        Some("Allow") => Effect::Allow,
        Some("Deny") => Effect::Deny,
        _ => {
            faults.add(&format!("{path}.Effect"), "must be Allow or Deny");
            // The stricter reading, so that the rest is still told.
            Effect::Allow
        }
    };
    for (path, action) in texts(fields, path, "Action", "NotAction", faults) {
        check_action(action, effect, &path, faults);
    }
    for (path, resource) in texts(fields, path, "Resource", "NotResource", faults) {
        check_resource(resource, effect, &path, faults);
    }
    if let Some(condition) = fields.get("Condition") {
        check_condition(condition, effect, &format!("{path}.Condition"), faults);
    }
}

/// A text or a list of at least one, each with its path.
fn texts<'a>(
    fields: &'a Map<String, Value>,
    path: &str,
    key: &str,
    opposite: &str,
    faults: &mut Faults,
) -> Vec<(String, &'a str)> {
    let path = format!("{path}.{key}");
    match fields.get(key) {
        Some(Value::String(text)) => vec![(path, text)],
        Some(Value::Array(items)) if !items.is_empty() => {
            let mut found = Vec::new();
            for (index, item) in items.iter().enumerate() {
                let path = format!("{path}[{index}]");
                match item {
                    Value::String(text) => found.push((path, text.as_str())),
                    _ => faults.add(&path, "expected a text"),
                }
            }
            found
        }
        // Its opposite has a fault of its own.
        None if fields.contains_key(opposite) => Vec::new(),
        _ => {
            faults.add(&path, "expected a text, or a list of at least one");
            Vec::new()
        }
    }
}

fn check_action(action: &str, effect: Effect, path: &str, faults: &mut Faults) {
    if holds_parameter(action) || action.contains('$') {
        return faults.add(path, "an action takes no parameters: write a scope for each");
    }
    if action == "*" {
        return match effect {
            Effect::Allow => faults.add(path, "allows everything; name the actions"),
            Effect::Deny => (),
        };
    }
    let named = action.split_once(':').filter(|(service, name)| {
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"*?-".contains(&byte);
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        !service.is_empty() && service.bytes().all(plain) && !name.is_empty() && name.bytes().all(legal)
    });
    let Some((service, name)) = named.filter(|_| action.len() <= 128) else {
        return faults.add(path, "expected service:Action, with wildcards in the action only");
    };
    if effect == Effect::Allow
        && faults.escapes == Escapes::Refused
        && let Some((listed, escape)) = escapes::first_within(service, name)
    {
        let (words, noun) = (escape.words(), escape.noun());
        let next = format!("remove the action, or declare spec.leaves_behind: [{noun}]");
        faults.add(path, &format!("takes in {listed}, which {words}; {next}"));
    }
}

fn check_resource(resource: &str, effect: Effect, path: &str, faults: &mut Faults) {
    check_characters(resource, path, faults);
    if resource != "*" {
        let parts: Vec<&str> = resource.splitn(6, ':').collect();
        let [arn, partition, service, region, account, rest] = parts[..] else {
            return faults.add(path, "expected * or arn:partition:service:region:account:resource");
        };
        if [partition, service, region, account].iter().any(|part| part.contains(['{', '}', '$'])) {
            return faults
                .add(path, "a parameter stands only behind the account, in the resource's own part");
        }
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        let wild = |byte: u8| plain(byte) || b"*?".contains(&byte);
        let sound = arn == "arn"
            && !partition.is_empty()
            && partition.bytes().all(plain)
            && !service.is_empty()
            && service.bytes().all(plain)
            && region.bytes().chain(account.bytes()).all(wild)
            && !rest.is_empty();
        if !sound {
            faults.add(path, "expected * or arn:partition:service:region:account:resource");
        }
    }
    if effect == Effect::Deny && holds_parameter(resource) {
        faults.add(path, WIDENS);
    }
}

/// A value that the caller chooses must narrow.
const WIDENS: &str =
    "a parameter here lets the caller choose what stays allowed; put it where it narrows an Allow";

fn check_condition(condition: &Value, effect: Effect, path: &str, faults: &mut Faults) {
    let Some(operators) = condition.as_object().filter(|operators| !operators.is_empty()) else {
        return faults.add(path, "expected a mapping of operators");
    };
    for (operator, keys) in operators {
        let path = format!("{path}.{operator}");
        let Some(narrows) = narrows(operator, effect) else {
            faults.add(&path, "unknown operator; upper and lower case count");
            continue;
        };
        let Some(keys) = keys.as_object().filter(|keys| !keys.is_empty()) else {
            faults.add(&path, "expected a mapping of condition keys");
            continue;
        };
        for (key, values) in keys {
            let path = format!("{path}.{key}");
            if !key.contains(':') || key.contains("${") {
                faults.add(&path, "expected a condition key such as s3:prefix");
            }
            check_values(values, narrows, &path, faults);
        }
    }
}

/// Whether a value under this operator narrows what the statement leaves allowed; none if there is no such operator.
fn narrows(operator: &str, effect: Effect) -> Option<bool> {
    let single = operator.strip_prefix("ForAllValues:").or_else(|| operator.strip_prefix("ForAnyValue:"));
    let name = single.unwrap_or(operator);
    let base = name.strip_suffix("IfExists").unwrap_or(name);
    let negated = NEGATED.contains(&base);
    if !(negated || POSITIVE.contains(&base)) || (base == "Null" && base != operator) {
        return None;
    }
    // Both are true as well when the key is missing.
    let holds_without_key = base != name || operator.starts_with("ForAllValues:");
    Some(match effect {
        Effect::Allow => !negated && !holds_without_key,
        Effect::Deny => negated,
    })
}

fn check_values(values: &Value, narrows: bool, path: &str, faults: &mut Faults) {
    let scalar = |value: &Value| matches!(value, Value::String(_) | Value::Bool(_) | Value::Number(_));
    let items: Vec<(String, &Value)> = match values {
        Value::Array(items) if !items.is_empty() && items.iter().all(scalar) => {
            items.iter().enumerate().map(|(index, item)| (format!("{path}[{index}]"), item)).collect()
        }
        one if scalar(one) => vec![(path.to_owned(), one)],
        _ => return faults.add(path, "expected a value, or a list of at least one"),
    };
    for (path, text) in items.iter().filter_map(|(path, item)| item.as_str().map(|text| (path, text))) {
        check_characters(text, path, faults);
        if !narrows && holds_parameter(text) {
            faults.add(path, WIDENS);
        }
    }
}

/// botocore, `sessionPolicyDocumentType`: tab, line feed, carriage return and U+0020 to U+00FF.
fn check_characters(text: &str, path: &str, faults: &mut Faults) {
    if !text.chars().all(|c| ('\u{20}'..='\u{ff}').contains(&c)) {
        faults.add(path, "AWS takes characters from U+0020 to U+00FF only");
    }
}

/// Whether a parameter stands in a leaf. `${…}` is a policy variable of AWS, no parameter.
fn holds_parameter(leaf: &str) -> bool {
    let Some(at) = leaf.find('{') else { return false };
    if !leaf[..at].ends_with('$') {
        return true;
    }
    leaf[at..].find('}').is_some_and(|close| holds_parameter(&leaf[at + close..]))
}

struct Faults {
    found: Vec<TemplateFault>,
    escapes: Escapes,
}

impl Faults {
    fn add(&mut self, path: &str, problem: &str) {
        self.found.push(TemplateFault { path: path.to_owned(), problem: problem.to_owned() });
    }
}

#[cfg(test)]
mod tests;
