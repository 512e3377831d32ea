//! `authorization_details` (RFC 9396): a scope with its parameters, where a plain name does not say enough.

use std::fmt;

use dayfly_domain::parameter::Parameters;
use dayfly_domain::scope::ScopeAsk;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use super::refused::Fault;

/// The one type of details there is.
pub(super) const TYPE: &str = "dayfly_scope";

/// One detail. What it does not know it refuses (RFC 9396 §5).
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Detail {
    r#type: String,
    scope: String,
    #[serde(default)]
    parameters: Once,
}

/// Parameters, each at most once: with two values nobody could say which was decided on.
#[derive(Default)]
struct Once(Parameters);

impl<'de> Deserialize<'de> for Once {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;

        impl<'de> Visitor<'de> for Read {
            type Value = Once;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("parameters by name, each a text")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Once, A::Error> {
                let mut parameters = Parameters::new();
                while let Some((name, value)) = map.next_entry::<String, String>()? {
                    if parameters.insert(name, value).is_some() {
                        return Err(A::Error::custom("a parameter comes twice"));
                    }
                }
                Ok(Once(parameters))
            }
        }

        deserializer.deserialize_map(Read)
    }
}

/// Reads the field: a list of exactly one.
pub(super) fn read(text: &str) -> Result<ScopeAsk, Fault> {
    let details: Vec<Detail> = serde_json::from_str(text).map_err(|error| fault(&error.to_string()))?;
    match <[Detail; 1]>::try_from(details) {
        Ok([detail]) if detail.r#type == TYPE => {
            Ok(ScopeAsk { scope: detail.scope, parameters: detail.parameters.0 })
        }
        Ok(_) => Err(fault("the type is not dayfly_scope")),
        Err(_) => Err(fault("a token is of one scope, so there is one detail")),
    }
}

/// What was granted, in the words of the field (RFC 9396 §7).
pub(super) fn shown(ask: &ScopeAsk) -> Value {
    json!([{"type": TYPE, "scope": ask.scope, "parameters": ask.parameters}])
}

pub(super) fn fault(what: &str) -> Fault {
    let next =
        r#"send a list of one: [{"type":"dayfly_scope","scope":"a-scope","parameters":{"a":"value"}}]"#;
    Fault::new("invalid_authorization_details", "AUTHORIZATION_DETAILS_INVALID", what, next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_detail_of_the_one_type_is_read() {
        let ask = read(r#"[{"type":"dayfly_scope","scope":"s","parameters":{"a":"1","b":"2"}}]"#);
        let ask = ask.expect("a right one");
        assert_eq!((ask.scope.as_str(), ask.parameters.len()), ("s", 2));
        assert_eq!(shown(&ask), json!([{"type": TYPE, "scope": "s", "parameters": {"a": "1", "b": "2"}}]));
        assert_eq!(read(r#"[{"type":"dayfly_scope","scope":"s"}]"#).expect("without").parameters.len(), 0);
    }

    #[test]
    fn whatever_else_it_holds_is_refused() {
        let deep = format!("{}{}", "[".repeat(4_000), "]".repeat(4_000));
        for text in [
            "",
            "{}",
            "[]",
            "[1]",
            r#"{"type":"dayfly_scope","scope":"s"}"#,
            r#"[{"scope":"s"}]"#,
            r#"[{"type":"payment","scope":"s"}]"#,
            r#"[{"type":"dayfly_scope","scope":"s"},{"type":"dayfly_scope","scope":"t"}]"#,
            r#"[{"type":"dayfly_scope","scope":"s","scope":"t"}]"#,
            r#"[{"type":"dayfly_scope","scope":"s","actions":["write"]}]"#,
            r#"[{"type":"dayfly_scope","scope":"s","parameters":{"a":"1","a":"2"}}]"#,
            r#"[{"type":"dayfly_scope","scope":"s","parameters":{"a":1}}]"#,
            r#"[{"type":"dayfly_scope","scope":"s","parameters":{"a":["1"]}}]"#,
            r#"[{"type":"dayfly_scope","scope":"s","parameters":[]}]"#,
            r#"[{"type":"dayfly_scope","scope":"s"}] x"#,
            deep.as_str(),
        ] {
            let refused = read(text).map_err(|fault| fault.reason);
            assert_eq!(refused.map(|_| ()), Err("AUTHORIZATION_DETAILS_INVALID"), "{text}");
        }
    }
}
