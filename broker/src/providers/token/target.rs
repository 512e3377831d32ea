//! `spec.target.token`: what a scope says about its access tokens.

use std::fmt;

use dayfly_domain::spiffe::SpiffeId;
use dayfly_domain::template::TemplateFault;
use serde_json::{Map, Value};

/// Every key of a target.
const KEYS: [&str; 5] = ["audience", "scope", "claims", "checked", "verifiers"];
/// Most services that may ask about one scope's tokens.
const MAX_VERIFIERS: usize = 32;
/// Largest tree of own claims, in bytes of JSON.
const MAX_CLAIMS: usize = 2048;
/// The own claim that holds the tags which policies set.
pub(super) const TAGS: &str = "tags";
/// Names with a meaning of their own in our tokens, in RFC 7519, RFC 8693 and RFC 9396. They are refused in the tree of
/// own claims, though it lies under one claim: a service that flattens it must not be fooled.
const TAKEN: [&str; 21] = [
    "iss",
    "sub",
    "aud",
    "exp",
    "nbf",
    "iat",
    "jti",
    "client_id",
    "scope",
    "act",
    "may_act",
    "cnf",
    "txn",
    "task",
    "dev",
    "dayfly",
    "azp",
    "active",
    "authorization_details",
    "token_type",
    TAGS,
];

/// How services check the tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checked {
    /// They ask the broker each time: an end holds at once.
    Introspect,
    /// They look at the signature and the time only: an end holds when the token runs out.
    Offline,
}

/// A scope's target, read.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// The one service the tokens are for.
    pub audience: String,
    /// OAuth scope, tokens divided by single spaces (RFC 6749 §3.3).
    pub scope: Option<String>,
    /// Own claims, under the claim `dayfly`.
    pub claims: Option<Map<String, Value>>,
    /// How services check.
    pub checked: Checked,
    /// Who may ask about the tokens, beside the audience itself.
    pub verifiers: Vec<SpiffeId>,
}

impl Target {
    /// Reads a target, rendered or not, or tells every fault.
    pub fn read(tree: &Value) -> Result<Self, Vec<TemplateFault>> {
        let mut faults = Faults(Vec::new());
        let Value::Object(fields) = tree else {
            faults.add("", "expected a mapping with audience and checked");
            return Err(faults.0);
        };
        for key in fields.keys().filter(|key| !KEYS.contains(&key.as_str())) {
            faults.add(key, format_args!("unknown key; there are {}", KEYS.join(", ")));
        }
        let audience = read_audience(fields.get("audience"), &mut faults);
        let checked = read_checked(fields.get("checked"), &mut faults);
        let scope = fields.get("scope").and_then(|value| read_scope(value, &mut faults));
        let claims = fields.get("claims").and_then(|value| read_claims(value, &mut faults));
        let verifiers = fields.get("verifiers").map(|value| read_verifiers(value, &mut faults));
        let (Some(audience), Some(checked)) = (audience, checked) else { return Err(faults.0) };
        match (checked, &verifiers) {
            (Checked::Introspect, None) if audience.parse::<SpiffeId>().is_err() => faults.add(
                "verifiers",
                "missing: introspection answers known services only; name the SPIFFE ID of the one behind this URL",
            ),
            (Checked::Offline, Some(_)) => {
                faults.add("verifiers", "nobody asks about tokens that are checked offline; leave it out")
            }
            (Checked::Introspect | Checked::Offline, _) => {}
        }
        let verifiers = verifiers.unwrap_or_default();
        if faults.0.is_empty() {
            Ok(Self { audience, scope, claims, checked, verifiers })
        } else {
            Err(faults.0)
        }
    }

    /// Whether a service may ask about the tokens of this scope.
    pub fn may_ask(&self, service: &SpiffeId) -> bool {
        self.audience == service.as_str() || self.verifiers.contains(service)
    }
}

fn read_audience(value: Option<&Value>, faults: &mut Faults) -> Option<String> {
    match value {
        Some(Value::String(audience)) => return Some(audience.clone()),
        Some(_) => faults.add("audience", "expected text: a token is for one service"),
        None => faults.add("audience", "missing: the SPIFFE ID or https URL of the service"),
    }
    None
}

fn read_checked(value: Option<&Value>, faults: &mut Faults) -> Option<Checked> {
    match value.map(Value::as_str) {
        Some(Some("introspect")) => return Some(Checked::Introspect),
        Some(Some("offline")) => return Some(Checked::Offline),
        Some(_) => faults.add("checked", "expected introspect or offline"),
        None => faults.add(
            "checked",
            "missing: introspect (the service asks the broker each time) or offline (signature and time only)",
        ),
    }
    None
}

fn read_scope(value: &Value, faults: &mut Faults) -> Option<String> {
    let tokens: Vec<&str> = match value {
        Value::String(text) => text.split(' ').collect(),
        Value::Array(items) if !items.is_empty() && items.iter().all(Value::is_string) => {
            items.iter().filter_map(Value::as_str).collect()
        }
        _ => {
            faults.add("scope", "expected text, or a list of texts");
            return None;
        }
    };
    // RFC 6749 §3.3: scope-token = 1*( %x21 / %x23-5B / %x5D-7E ).
    let legal = |byte: u8| matches!(byte, 0x21 | 0x23..=0x5b | 0x5d..=0x7e);
    if !tokens.iter().all(|token| !token.is_empty() && token.bytes().all(legal)) {
        faults.add(
            "scope",
            "an OAuth scope is printable ASCII without space, quote and backslash; single spaces divide",
        );
    }
    Some(tokens.join(" "))
}

fn read_claims(value: &Value, faults: &mut Faults) -> Option<Map<String, Value>> {
    let Value::Object(claims) = value else {
        faults.add("claims", "expected a mapping");
        return None;
    };
    for name in claims.keys().filter(|name| TAKEN.contains(&name.as_str())) {
        faults.add(&format!("claims.{name}"), "this name has a meaning of its own in tokens; choose another");
    }
    if value.to_string().len() > MAX_CLAIMS {
        faults.add("claims", format_args!("own claims have at most {MAX_CLAIMS} bytes"));
    }
    Some(claims.clone())
}

fn read_verifiers(value: &Value, faults: &mut Faults) -> Vec<SpiffeId> {
    let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
    if items.is_empty() || items.len() > MAX_VERIFIERS {
        faults.add("verifiers", format_args!("expected a list of 1 to {MAX_VERIFIERS} SPIFFE IDs"));
    }
    let mut verifiers = Vec::new();
    for (index, item) in items.iter().enumerate() {
        match item.as_str().unwrap_or_default().parse() {
            Ok(id) => verifiers.push(id),
            Err(error) => faults.add(&format!("verifiers[{index}]"), error),
        }
    }
    verifiers
}

struct Faults(Vec<TemplateFault>);

impl Faults {
    fn add(&mut self, path: &str, problem: impl fmt::Display) {
        self.0.push(TemplateFault { path: path.to_owned(), problem: problem.to_string() });
    }
}
