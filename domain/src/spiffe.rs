//! SPIFFE IDs, parsed strictly (SPIFFE-ID §2).

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// SPIFFE-ID §2.3: at most 2048 bytes.
const MAX_LENGTH: usize = 2048;
/// SPIFFE-ID §2.1: a trust domain name is at most 255 bytes.
const MAX_TRUST_DOMAIN: usize = 255;

/// Why a text is not a SPIFFE ID.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum NotASpiffeId {
    /// Over 2048 bytes.
    #[error("a SPIFFE ID has at most 2048 bytes")]
    TooLong,
    /// Another scheme, or none.
    #[error("a SPIFFE ID begins with spiffe://")]
    Scheme,
    /// Empty, over 255 bytes, or with characters outside `a-z 0-9 . - _`.
    #[error("the trust domain holds only a-z, 0-9, dot, dash and underscore")]
    TrustDomain,
    /// No path, an empty or relative segment, or characters outside `A-Z a-z 0-9 . - _`.
    #[error("the path holds non-empty segments of letters, digits, dot, dash and underscore")]
    Path,
}

/// A workload's SPIFFE ID. It has a path: the bare trust domain names no workload.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SpiffeId {
    text: Arc<str>,
    path_at: usize,
}

impl SpiffeId {
    /// The whole id, `spiffe://…`.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The trust domain's name.
    pub fn trust_domain(&self) -> &str {
        &self.text["spiffe://".len()..self.path_at]
    }

    /// The segments of the path.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.text[self.path_at + 1..].split('/')
    }
}

/// Checks a trust domain's name (SPIFFE-ID §2.1).
pub fn is_trust_domain(name: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-_".contains(&byte);
    !name.is_empty() && name.len() <= MAX_TRUST_DOMAIN && name.bytes().all(legal)
}

/// Checks one segment of a path (SPIFFE-ID §2.2).
pub fn is_segment(segment: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    !matches!(segment, "" | "." | "..") && segment.bytes().all(legal)
}

impl FromStr for SpiffeId {
    type Err = NotASpiffeId;

    fn from_str(text: &str) -> Result<Self, NotASpiffeId> {
        if text.len() > MAX_LENGTH {
            return Err(NotASpiffeId::TooLong);
        }
        let rest = text.strip_prefix("spiffe://").ok_or(NotASpiffeId::Scheme)?;
        let (trust_domain, path) = rest.split_once('/').ok_or(NotASpiffeId::Path)?;
        if !is_trust_domain(trust_domain) {
            return Err(NotASpiffeId::TrustDomain);
        }
        if !path.split('/').all(is_segment) {
            return Err(NotASpiffeId::Path);
        }
        Ok(Self { text: text.into(), path_at: "spiffe://".len() + trust_domain.len() })
    }
}

impl TryFrom<String> for SpiffeId {
    type Error = NotASpiffeId;

    fn try_from(text: String) -> Result<Self, NotASpiffeId> {
        text.parse()
    }
}

impl From<SpiffeId> for String {
    fn from(id: SpiffeId) -> String {
        id.text.to_string()
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_what_they_say() {
        let id: SpiffeId = "spiffe://example.org/train/job-42".parse().expect("legal");
        assert_eq!(id.trust_domain(), "example.org");
        assert_eq!(id.segments().collect::<Vec<_>>(), ["train", "job-42"]);
    }

    #[test]
    fn what_is_not_a_spiffe_id_is_refused() {
        let long = format!("spiffe://example.org/{}", "a".repeat(2048));
        for (text, why) in [
            ("https://example.org/a", NotASpiffeId::Scheme),
            ("spiffe://example.org", NotASpiffeId::Path),
            ("spiffe://example.org/", NotASpiffeId::Path),
            ("spiffe://example.org/a//b", NotASpiffeId::Path),
            ("spiffe://example.org/../b", NotASpiffeId::Path),
            ("spiffe://example.org/a?via=b", NotASpiffeId::Path),
            ("spiffe://example.org/a%2fb", NotASpiffeId::Path),
            ("spiffe://Example.org/a", NotASpiffeId::TrustDomain),
            ("spiffe:///a", NotASpiffeId::TrustDomain),
            ("spiffe://example.org:8443/a", NotASpiffeId::TrustDomain),
            (long.as_str(), NotASpiffeId::TooLong),
        ] {
            assert_eq!(text.parse::<SpiffeId>(), Err(why), "{text}");
        }
    }
}
