//! Asking again for a credential whose answer was lost.
//!
//! A secret is not stored, so it cannot be told twice: who asks again under the same key gets a new credential in the
//! place of the first, which is taken back. A key means something only to the caller, on the node and in the task that
//! used it first; to all others it is a key of their own.

use serde::Serialize;
use serde_json::json;
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::decision::Wish;
use crate::id::TaskId;
use crate::spiffe::SpiffeId;

/// Longest key, in bytes.
pub const MAX_KEY: usize = 128;

/// A key with what was asked under it. Neither can be read from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssueKey {
    /// SHA-256 of the key and of those it is for: the caller, its node, the task.
    pub id: [u8; 32],
    /// SHA-256 of the request: scope, parameters, lifetime.
    pub request: [u8; 32],
}

/// The text is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("an idempotency key has 1 to {MAX_KEY} visible ASCII characters")]
pub struct NotAKey;

impl IssueKey {
    /// The key that a caller sent with a wish.
    ///
    /// # Errors
    /// When the text is too long, or holds anything else than visible ASCII.
    pub fn new(
        text: &str,
        caller: &SpiffeId,
        node: Option<&SpiffeId>,
        task: TaskId,
        wish: &Wish,
    ) -> Result<Self, NotAKey> {
        if text.is_empty() || text.len() > MAX_KEY || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(NotAKey);
        }
        Ok(Self {
            id: digest(&json!([caller, node, task, text])),
            request: digest(&json!([wish.ask.scope, wish.ask.parameters, wish.ttl])),
        })
    }
}

/// JSON keeps apart what stands side by side, and parameters are sorted by name.
fn digest(of: &impl Serialize) -> [u8; 32] {
    Sha256::digest(serde_json::to_vec(of).expect("text and numbers are JSON")).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scope::ScopeAsk;
    use crate::time::{Timestamp, Ttl};

    fn id(name: &str) -> SpiffeId {
        format!("spiffe://example.org/{name}").parse().expect("a SPIFFE ID")
    }

    fn task(entropy: u128) -> TaskId {
        TaskId::new(Timestamp::from_unix_millis(0), entropy)
    }

    fn wish(scope: &str, ttl: Option<Ttl>, parameters: &[(&str, &str)]) -> Wish {
        let parameters = parameters.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Wish { ask: ScopeAsk { scope: scope.to_owned(), parameters: parameters.collect() }, ttl, act: None }
    }

    #[test]
    fn a_key_is_another_for_another_caller_node_or_task() {
        let wish = wish("read", None, &[]);
        let key = |text, caller: &str, node: Option<&str>, of| {
            let node = node.map(id);
            IssueKey::new(text, &id(caller), node.as_ref(), task(of), &wish).expect("a key").id
        };
        let one = key("k", "a", Some("n"), 1);
        assert_eq!(one, key("k", "a", Some("n"), 1));
        for other in [
            key("l", "a", Some("n"), 1),
            key("k", "b", Some("n"), 1),
            key("k", "a", Some("m"), 1),
            key("k", "a", None, 1),
            key("k", "a", Some("n"), 2),
        ] {
            assert_ne!(one, other);
        }
    }

    #[test]
    fn a_request_differs_by_scope_parameter_and_lifetime() {
        let request = |wish| IssueKey::new("k", &id("a"), None, task(1), &wish).expect("a key").request;
        let one = request(wish("read", None, &[("a", "1"), ("b", "2")]));
        assert_eq!(one, request(wish("read", None, &[("b", "2"), ("a", "1")])), "whatever the order");
        for other in [
            wish("write", None, &[("a", "1"), ("b", "2")]),
            wish("read", Some(Ttl::seconds(60)), &[("a", "1"), ("b", "2")]),
            wish("read", None, &[("a", "1"), ("b", "3")]),
            wish("read", None, &[("a", "1")]),
        ] {
            assert_ne!(one, request(other));
        }
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let key = |text: &str| IssueKey::new(text, &id("a"), None, task(1), &wish("read", None, &[]));
        for bad in ["", " ", "a b", "a\n", "\u{e4}", &"k".repeat(MAX_KEY + 1)] {
            assert_eq!(key(bad), Err(NotAKey), "{bad:?}");
        }
        assert!(key(&"k".repeat(MAX_KEY)).is_ok());
    }
}
