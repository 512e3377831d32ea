//! What the wire calls times and spans, as people and programs read them.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use dayfly_client::v1;
use dayfly_domain::time::{Timestamp, Ttl};
use serde::{Serialize, Serializer};

/// An instant. Prints to the second in UTC; in JSON it is RFC 3339 to the millisecond.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At(pub Timestamp);

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_second(self.0.unix_seconds()) {
            Ok(at) => write!(f, "{at:.0}"),
            Err(_) => write!(f, "{}", self.0),
        }
    }
}

impl Serialize for At {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

/// An instant from the wire; one that is out of range is as good as absent.
pub fn at(wire: Option<prost_types::Timestamp>) -> Option<At> {
    let wire = wire?;
    let ms = wire.seconds.checked_mul(1000)?.checked_add(i64::from(wire.nanos) / 1_000_000)?;
    Some(At(Timestamp::from_unix_millis(ms)))
}

/// An instant for the wire.
pub fn timestamp(at: Timestamp) -> prost_types::Timestamp {
    let ms = at.unix_millis();
    let nanos = i32::try_from(ms.rem_euclid(1000) * 1_000_000).expect("below a second");
    prost_types::Timestamp { seconds: ms.div_euclid(1000), nanos }
}

/// An instant or a dash.
pub fn or_dash(at: Option<At>) -> String {
    at.map_or_else(|| "-".to_owned(), |at| at.to_string())
}

/// A span for the wire.
pub fn duration(span: Ttl) -> prost_types::Duration {
    let seconds = i64::try_from(span.as_seconds()).unwrap_or(i64::MAX);
    let nanos = i32::try_from(span.as_millis() % 1000 * 1_000_000).expect("below a second");
    prost_types::Duration { seconds, nanos }
}

/// A span from the wire; a negative one is as good as absent.
pub fn span(wire: Option<prost_types::Duration>) -> Option<Ttl> {
    wire.and_then(|wire| std::time::Duration::try_from(wire).ok()).map(Ttl::from)
}

/// Text, where there is any.
pub fn some(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

/// `name(key=value, …)`.
pub fn scope(name: &str, parameters: &BTreeMap<String, String>) -> String {
    let values: Vec<String> = parameters.iter().map(|(key, value)| format!("{key}={value}")).collect();
    if values.is_empty() { name.to_owned() } else { format!("{name}({})", values.join(", ")) }
}

/// A map in the order of its keys.
pub fn sorted(map: HashMap<String, String>) -> BTreeMap<String, String> {
    map.into_iter().collect()
}

/// How far a target can take something back.
#[derive(Debug, Serialize)]
pub struct Promise {
    /// `exact`, `deny`, `proxied` or `expiry_only`.
    pub revocability: &'static str,
    /// The longest it can work after the end of its task, in seconds.
    pub worst_case_after_end_seconds: Option<u64>,
    /// What its use may leave behind that nobody takes back.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub leaves_behind: Vec<String>,
    #[serde(skip)]
    worst_case: Option<Ttl>,
}

impl From<v1::RevocationPromise> for Promise {
    fn from(wire: v1::RevocationPromise) -> Self {
        let revocability = match wire.revocability() {
            v1::Revocability::Exact => "exact",
            v1::Revocability::Deny => "deny",
            v1::Revocability::Proxied => "proxied",
            v1::Revocability::ExpiryOnly => "expiry_only",
            v1::Revocability::Unspecified => "unknown",
        };
        let worst_case = span(wire.worst_case_after_end);
        // Rounded up: a promise must not look better than it is.
        let worst_case_after_end_seconds = worst_case.map(|span| span.as_millis().div_ceil(1000));
        let leaves_behind = wire.leaves_behind;
        Promise { revocability, worst_case_after_end_seconds, leaves_behind, worst_case }
    }
}

impl fmt::Display for Promise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.worst_case {
            Some(span) => write!(f, "{}, at most {span} after the end", self.revocability),
            None => f.write_str(self.revocability),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_print_to_the_second_and_serialize_to_the_millisecond() {
        let wire = prost_types::Timestamp { seconds: 1_700_000_000, nanos: 123_000_000 };
        let at = at(Some(wire)).expect("in range");
        assert_eq!(at.to_string(), "2023-11-14T22:13:20Z");
        assert_eq!(serde_json::to_string(&at).expect("plain data"), r#""2023-11-14T22:13:20.123Z""#);
        assert_eq!(super::at(Some(prost_types::Timestamp { seconds: i64::MAX, nanos: 0 })), None);
    }

    #[test]
    fn a_promise_is_never_rounded_down() {
        let wire = v1::RevocationPromise {
            revocability: v1::Revocability::Exact.into(),
            worst_case_after_end: Some(prost_types::Duration { seconds: 1, nanos: 500_000_000 }),
            leaves_behind: Vec::new(),
        };
        let promise = Promise::from(wire);
        assert_eq!(promise.worst_case_after_end_seconds, Some(2));
        assert_eq!(promise.to_string(), "exact, at most 1s500ms after the end");
    }
}
