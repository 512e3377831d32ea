//! What a policy's `decision` may hold: `{"allow": …, "reasons": […], "narrow": {…}}`. Anything else is no answer, and
//! no answer denies.

use std::collections::BTreeMap;

use dayfly_domain::policy::Narrowing;
use dayfly_domain::time::Ttl;
use regorus::Value;

/// Most reasons of one answer.
pub const MAX_REASONS: usize = 8;
/// Longest reason, in bytes.
pub const MAX_REASON: usize = 256;
/// Most deny statements of one answer.
pub const MAX_DENY_STATEMENTS: usize = 8;
/// All deny statements of one answer as JSON, in bytes: a session policy takes 2,048 characters (AWS, AssumeRole).
pub const MAX_STATEMENT_BYTES: usize = 2_048;
/// Most tags of one answer, and of all answers to one request. AWS takes 50 session tags; the broker sets its own.
pub const MAX_TAGS: usize = 10;
/// Longest key of a tag, in characters (AWS, "Rules for tagging in IAM and STS").
pub const MAX_TAG_KEY: usize = 128;
/// Longest value of a tag, in characters (the same).
pub const MAX_TAG_VALUE: usize = 256;

/// Prefixes of tag keys that policies may not set, in any case: the broker's own, and AWS's.
const RESERVED_PREFIXES: [&str; 2] = ["dayfly", "aws:"];
/// Tag keys that policies may not set, in any case: claims of the broker's tokens.
const RESERVED_KEYS: [&str; 16] = [
    "iss",
    "sub",
    "aud",
    "exp",
    "nbf",
    "iat",
    "jti",
    "client_id",
    "scope",
    "cnf",
    "act",
    "may_act",
    "txn",
    "task",
    "dev",
    "session",
];

/// A valid answer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Answer {
    pub(crate) allow: bool,
    pub(crate) reasons: Vec<String>,
    pub(crate) narrow: Narrowing,
}

/// Whether a tag of this key is not for policies to set.
pub fn is_reserved_tag(key: &str) -> bool {
    let key = key.to_lowercase();
    RESERVED_PREFIXES.iter().any(|prefix| key.starts_with(prefix)) || RESERVED_KEYS.contains(&key.as_str())
}

impl Answer {
    /// Reads what the rule yielded, or says what about it is no answer.
    pub(crate) fn read(decision: &Value) -> Result<Self, String> {
        if *decision == Value::Undefined {
            return Err("decision is undefined".to_owned());
        }
        let fields = Fields::of(decision, "decision", &["allow", "reasons", "narrow"])?;
        let allow = match fields.get("allow") {
            Some(Value::Bool(allow)) => *allow,
            Some(_) => return Err("decision.allow is not true or false".to_owned()),
            None => return Err("decision.allow is missing".to_owned()),
        };
        let reasons = fields.get("reasons").map(read_reasons).transpose()?.unwrap_or_default();
        let narrow = fields.get("narrow").map(read_narrow).transpose()?.unwrap_or_default();
        Ok(Self { allow, reasons, narrow })
    }
}

/// An object whose keys are all known.
struct Fields<'a>(BTreeMap<&'a str, &'a Value>);

impl<'a> Fields<'a> {
    fn of(value: &'a Value, path: &str, known: &[&str]) -> Result<Self, String> {
        let object = value.as_object().map_err(|_| format!("{path} is not an object"))?;
        let mut fields = BTreeMap::new();
        for (key, value) in object.iter() {
            match key.as_string().ok().map(AsRef::as_ref).filter(|key: &&str| known.contains(key)) {
                Some(key) => fields.insert(key, value),
                None => return Err(format!("{path} has a key other than {}", known.join(", "))),
            };
        }
        Ok(Self(fields))
    }

    fn get(&self, key: &str) -> Option<&'a Value> {
        self.0.get(key).copied()
    }
}

/// A list or a set of values.
fn items<'a>(value: &'a Value, path: &str, most: usize) -> Result<Vec<&'a Value>, String> {
    let items: Vec<&Value> = match value {
        Value::Array(items) => items.iter().take(most + 1).collect(),
        Value::Set(items) => items.iter_sorted().take(most + 1).collect(),
        _ => return Err(format!("{path} is not a list")),
    };
    if items.len() > most {
        return Err(format!("{path} has more than {most}"));
    }
    Ok(items)
}

fn text<'a>(value: &'a Value, path: &str) -> Result<&'a str, String> {
    value.as_string().map(AsRef::as_ref).map_err(|_| format!("{path} is not text"))
}

fn read_reasons(value: &Value) -> Result<Vec<String>, String> {
    let path = "decision.reasons";
    let mut reasons = Vec::new();
    for item in items(value, path, MAX_REASONS)? {
        let reason = text(item, path)?;
        if reason.is_empty() || reason.len() > MAX_REASON || reason.chars().any(char::is_control) {
            return Err(format!("{path} holds one that is not a line of 1 to {MAX_REASON} bytes"));
        }
        reasons.push(reason.to_owned());
    }
    Ok(reasons)
}

fn read_narrow(value: &Value) -> Result<Narrowing, String> {
    let fields = Fields::of(value, "decision.narrow", &["max_ttl", "deny_statements", "tags"])?;
    let max_ttl = fields.get("max_ttl").map(read_max_ttl).transpose()?;
    let deny_statements = fields.get("deny_statements").map(read_statements).transpose()?.unwrap_or_default();
    let tags = fields.get("tags").map(read_tags).transpose()?.unwrap_or_default();
    Ok(Narrowing { max_ttl, deny_statements, tags })
}

fn read_max_ttl(value: &Value) -> Result<Ttl, String> {
    let seconds = value.as_u32().ok().filter(|seconds| *seconds > 0);
    let seconds = seconds.ok_or("decision.narrow.max_ttl is not a whole number of seconds above 0")?;
    Ok(Ttl::seconds(u64::from(seconds)))
}

fn read_statements(value: &Value) -> Result<Vec<serde_json::Value>, String> {
    let path = "decision.narrow.deny_statements";
    let mut statements = Vec::new();
    let mut room = MAX_STATEMENT_BYTES;
    for item in items(value, path, MAX_DENY_STATEMENTS)? {
        let statement = to_json(item, &mut room, 0)
            .ok_or_else(|| format!("{path} are not plain JSON of at most {MAX_STATEMENT_BYTES} bytes"))?;
        check_statement(&statement).map_err(|problem| format!("{path}: {problem}"))?;
        statements.push(statement);
    }
    Ok(statements)
}

/// A statement of a session policy that can only deny (IAM JSON policy reference; a session policy names no principal).
fn check_statement(statement: &serde_json::Value) -> Result<(), String> {
    let map = statement.as_object().ok_or("a statement is not an object")?;
    if map.get("Effect").and_then(|effect| effect.as_str()) != Some("Deny") {
        return Err("a statement's Effect is not Deny".to_owned());
    }
    let is_texts = |value: &serde_json::Value| match value {
        serde_json::Value::String(text) => !text.is_empty(),
        serde_json::Value::Array(items) => {
            !items.is_empty() && items.iter().all(|item| item.as_str().is_some_and(|text| !text.is_empty()))
        }
        _ => false,
    };
    for (key, value) in map {
        let fits = match key.as_str() {
            "Effect" => true,
            "Sid" => value.as_str().is_some_and(|sid| sid.bytes().all(|byte| byte.is_ascii_alphanumeric())),
            "Action" | "NotAction" | "Resource" | "NotResource" => is_texts(value),
            "Condition" => value.is_object(),
            _ => return Err(format!("a statement has the key {key:?}")),
        };
        if !fits {
            return Err(format!("a statement's {key} has the wrong form"));
        }
    }
    for pair in [["Action", "NotAction"], ["Resource", "NotResource"]] {
        if pair.iter().filter(|key| map.contains_key(**key)).count() != 1 {
            return Err(format!("a statement needs one of {}", pair.join(", ")));
        }
    }
    Ok(())
}

/// The value as JSON, as long as it is small: shared parts would else be written out again and again.
fn to_json(value: &Value, room: &mut usize, depth: usize) -> Option<serde_json::Value> {
    const DEEPEST: usize = 8;
    let mut take = |bytes: usize| {
        *room = room.checked_sub(bytes)?;
        Some(())
    };
    Some(match value {
        _ if depth > DEEPEST => return None,
        Value::Null => {
            take(4)?;
            serde_json::Value::Null
        }
        Value::Bool(flag) => {
            take(5)?;
            (*flag).into()
        }
        Value::Number(_) => {
            take(20)?;
            value.as_i64().ok()?.into()
        }
        Value::String(text) => {
            take(text.len() + 2)?;
            text.as_ref().into()
        }
        Value::Array(_) | Value::Set(_) => {
            take(2)?;
            let items = items(value, "", MAX_STATEMENT_BYTES).ok()?;
            items.into_iter().map(|item| to_json(item, room, depth + 1)).collect::<Option<Vec<_>>>()?.into()
        }
        Value::Object(map) => {
            take(2)?;
            let mut object = serde_json::Map::new();
            for (key, value) in map.iter_sorted() {
                let key = key.as_string().ok()?;
                *room = room.checked_sub(key.len() + 4)?;
                object.insert(key.to_string(), to_json(value, room, depth + 1)?);
            }
            object.into()
        }
        Value::Undefined => return None,
    })
}

fn read_tags(value: &Value) -> Result<BTreeMap<String, String>, String> {
    let path = "decision.narrow.tags";
    let object = value.as_object().map_err(|_| format!("{path} is not an object"))?;
    if object.len() > MAX_TAGS {
        return Err(format!("{path} has more than {MAX_TAGS}"));
    }
    let mut tags = BTreeMap::new();
    for (key, value) in object.iter_sorted() {
        let (key, value) = (text(key, path)?, text(value, path)?);
        if is_reserved_tag(key) {
            return Err(format!("{path} has {key:?}, which is the broker's own"));
        }
        if !is_tag(key, 1, MAX_TAG_KEY) || !is_tag(value, 0, MAX_TAG_VALUE) {
            return Err(format!("{path} has a key or a value that AWS does not take"));
        }
        // AWS tells keys apart without their case.
        if tags.keys().any(|other: &String| other.to_lowercase() == key.to_lowercase()) {
            return Err(format!("{path} has {key:?} twice"));
        }
        tags.insert(key.to_owned(), value.to_owned());
    }
    Ok(tags)
}

/// Letters, digits, spaces and `_.:/=+-@` (AWS, "Rules for tagging in IAM and STS").
fn is_tag(text: &str, least: usize, most: usize) -> bool {
    let legal = |letter: char| letter.is_alphanumeric() || letter == ' ' || "_.:/=+-@".contains(letter);
    (least..=most).contains(&text.chars().count()) && text.chars().all(legal)
}
