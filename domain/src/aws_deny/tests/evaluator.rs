//! What AWS makes of a deny document, written from the IAM User Guide ("Condition operators") and not from our own code.

use serde_json::Value;

use crate::time::Timestamp;

#[derive(Debug)]
pub(super) struct Policy {
    statements: Vec<Vec<Condition>>,
}

#[derive(Debug)]
struct Condition {
    operator: String,
    key: String,
    values: Vec<String>,
}

impl Policy {
    pub(super) fn parse(text: &str) -> Self {
        let policy: Value = serde_json::from_str(text).expect("JSON");
        let statements = policy["Statement"].as_array().expect("statements").iter();
        Self {
            statements: statements
                .map(|statement| {
                    assert_eq!((&statement["Effect"], &statement["Action"]), (&"Deny".into(), &"*".into()));
                    assert_eq!(statement["Resource"], "*");
                    conditions(&statement["Condition"])
                })
                .collect(),
        }
    }

    /// Whether a session with this tag, issued at this second, is denied: by any statement all of whose conditions hold.
    pub(super) fn denies(&self, slot: Option<&str>, issued: i64) -> bool {
        self.statements
            .iter()
            .any(|conditions| conditions.iter().all(|condition| condition.holds(slot, issued)))
    }

    pub(super) fn uses(&self, operator: &str) -> bool {
        self.statements.iter().flatten().any(|condition| condition.operator == operator)
    }
}

fn conditions(block: &Value) -> Vec<Condition> {
    let operators = block.as_object().expect("a mapping").iter();
    let of = |(operator, keys): (&String, &Value)| -> Vec<Condition> {
        let keys = keys.as_object().expect("a mapping").iter();
        keys.map(|(key, values)| {
            let text = |value: &Value| value.as_str().expect("a text").to_owned();
            let values = match values {
                Value::Array(values) => values.iter().map(text).collect(),
                one => vec![text(one)],
            };
            Condition { operator: operator.clone(), key: key.clone(), values }
        })
        .collect()
    };
    operators.flat_map(of).collect()
}

impl Condition {
    fn holds(&self, slot: Option<&str>, issued: i64) -> bool {
        let any = |value: Option<&str>| {
            value.is_some_and(|value| {
                self.values.iter().any(|pattern| like(pattern.as_bytes(), value.as_bytes()))
            })
        };
        match (self.operator.as_str(), self.key.as_str()) {
            ("Null", "aws:PrincipalTag/dayfly-slot") => self.values == [slot.is_none().to_string()],
            ("StringLike", "aws:PrincipalTag/dayfly-slot") => any(slot),
            // Negated operators hold where the key is missing.
            ("StringNotLike", "aws:PrincipalTag/dayfly-slot") => !any(slot),
            ("DateLessThan", "aws:TokenIssueTime") => self.values.iter().any(|value| {
                let moment: Timestamp = value.parse().expect("a moment");
                issued < moment.unix_seconds()
            }),
            (operator, key) => panic!("{operator} {key}"),
        }
    }
}

fn like(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern, text) {
        ([], []) => true,
        ([b'*', rest @ ..], _) => like(rest, text) || (!text.is_empty() && like(pattern, &text[1..])),
        ([b'?', pattern @ ..], [_, text @ ..]) => like(pattern, text),
        ([a, pattern @ ..], [b, text @ ..]) => a == b && like(pattern, text),
        _ => false,
    }
}
