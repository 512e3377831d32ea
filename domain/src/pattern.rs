//! Patterns over SPIFFE IDs: exact segments, `*` for one segment, one `**` at the end for one or more.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::spiffe::{SpiffeId, is_segment, is_trust_domain};

/// Why a text is not a pattern.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum NotAPattern {
    /// It does not begin with `spiffe://` and a literal trust domain.
    #[error("a pattern begins with spiffe:// and one exact trust domain")]
    TrustDomain,
    /// A segment is empty, holds a `*` beside other characters, or is not legal in a SPIFFE ID.
    #[error("segment {0:?} is neither a plain segment nor a lone *")]
    Segment(String),
    /// `**` stands anywhere but at the end.
    #[error("** may stand only at the end")]
    DoubleStar,
}

/// One segment of a pattern.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Segment {
    Exact(String),
    Any,
}

/// A pattern such as `spiffe://example.org/train/*/**`. The trust domain is always exact.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SpiffePattern {
    trust_domain: String,
    segments: Vec<Segment>,
    /// Whether one or more further segments follow.
    open_ended: bool,
}

impl SpiffePattern {
    /// Whether the pattern takes in this id.
    pub fn matches(&self, id: &SpiffeId) -> bool {
        if id.trust_domain() != self.trust_domain {
            return false;
        }
        let mut asked = id.segments();
        for segment in &self.segments {
            match (segment, asked.next()) {
                (Segment::Any, Some(_)) => {}
                (Segment::Exact(want), Some(have)) if want == have => {}
                _ => return false,
            }
        }
        asked.next().is_some() == self.open_ended
    }

    /// Whether some id is matched by both.
    pub fn overlaps(&self, other: &SpiffePattern) -> bool {
        if self.trust_domain != other.trust_domain {
            return false;
        }
        let shared = self.segments.len().min(other.segments.len());
        let agree = self.segments.iter().zip(&other.segments).take(shared).all(|pair| match pair {
            (Segment::Exact(a), Segment::Exact(b)) => a == b,
            _ => true,
        });
        let longer_than = |a: &Self, b: &Self| a.segments.len() > b.segments.len();
        agree
            && match (self.open_ended, other.open_ended) {
                (true, true) => true,
                (false, false) => self.segments.len() == other.segments.len(),
                (true, false) => longer_than(other, self),
                (false, true) => longer_than(self, other),
            }
    }

    /// The segments, `None` for `*`, and whether one or more further segments follow.
    pub(crate) fn segments(&self) -> (impl Iterator<Item = Option<&str>>, bool) {
        let segments = self.segments.iter().map(|segment| match segment {
            Segment::Exact(text) => Some(text.as_str()),
            Segment::Any => None,
        });
        (segments, self.open_ended)
    }

    /// Whether the pattern ends in `**` right behind the trust domain: it takes in every identity of it.
    pub fn is_whole_trust_domain(&self) -> bool {
        self.segments.is_empty() && self.open_ended
    }

    /// The trust domain all matched ids are of.
    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// The one id this pattern matches, if it has no wildcard.
    pub fn exact(&self) -> Option<SpiffeId> {
        let plain = !self.open_ended && self.segments.iter().all(|s| matches!(s, Segment::Exact(_)));
        plain.then(|| self.to_string().parse().expect("a pattern without wildcards is an id"))
    }
}

/// Some id that every one of the patterns takes in, if there is one. Where they leave a segment open it is `any`.
pub fn common_id(patterns: &[&SpiffePattern]) -> Option<SpiffeId> {
    let (first, rest) = patterns.split_first()?;
    if rest.iter().any(|other| other.trust_domain != first.trust_domain) {
        return None;
    }
    let least = |pattern: &&SpiffePattern| pattern.segments.len() + usize::from(pattern.open_ended);
    let length = patterns.iter().map(least).max()?;
    let mut id = format!("spiffe://{}", first.trust_domain);
    for at in 0..length {
        let named = patterns.iter().find_map(|pattern| match pattern.segments.get(at) {
            Some(Segment::Exact(text)) => Some(text.as_str()),
            Some(Segment::Any) | None => None,
        });
        id.push('/');
        id.push_str(named.unwrap_or("any"));
    }
    // Those that differ in a segment, or are too short, do not take it in.
    let id: SpiffeId = id.parse().ok()?;
    patterns.iter().all(|pattern| pattern.matches(&id)).then_some(id)
}

impl FromStr for SpiffePattern {
    type Err = NotAPattern;

    fn from_str(text: &str) -> Result<Self, NotAPattern> {
        let rest = text.strip_prefix("spiffe://").ok_or(NotAPattern::TrustDomain)?;
        let (trust_domain, path) = rest.split_once('/').ok_or(NotAPattern::TrustDomain)?;
        if text.len() > 2048 || !is_trust_domain(trust_domain) {
            return Err(NotAPattern::TrustDomain);
        }
        let (path, open_ended) = match path.strip_suffix("**") {
            Some("") => ("", true),
            Some(head) => (head.strip_suffix('/').ok_or(NotAPattern::DoubleStar)?, true),
            None => (path, false),
        };
        let mut segments = Vec::new();
        if !(path.is_empty() && open_ended) {
            for segment in path.split('/') {
                segments.push(match segment {
                    "*" => Segment::Any,
                    "**" => return Err(NotAPattern::DoubleStar),
                    plain if is_segment(plain) => Segment::Exact(plain.to_owned()),
                    other => return Err(NotAPattern::Segment(other.to_owned())),
                });
            }
        }
        Ok(Self { trust_domain: trust_domain.to_owned(), segments, open_ended })
    }
}

impl TryFrom<String> for SpiffePattern {
    type Error = NotAPattern;

    fn try_from(text: String) -> Result<Self, NotAPattern> {
        text.parse()
    }
}

impl From<SpiffePattern> for String {
    fn from(pattern: SpiffePattern) -> String {
        pattern.to_string()
    }
}

impl fmt::Display for SpiffePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}", self.trust_domain)?;
        for segment in &self.segments {
            match segment {
                Segment::Exact(text) => write!(f, "/{text}")?,
                Segment::Any => f.write_str("/*")?,
            }
        }
        if self.open_ended { f.write_str("/**") } else { Ok(()) }
    }
}

impl fmt::Debug for SpiffePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> SpiffePattern {
        text.parse().expect("a pattern")
    }

    #[test]
    fn matching_follows_segments() {
        let id = "spiffe://example.org/train/job-42/rank-3".parse().expect("an id");
        for (text, expected) in [
            ("spiffe://example.org/train/job-42/rank-3", true),
            ("spiffe://example.org/train/*/rank-3", true),
            ("spiffe://example.org/train/**", true),
            ("spiffe://example.org/**", true),
            ("spiffe://example.org/train/*", false),
            ("spiffe://example.org/train/job-42/rank-3/**", false),
            ("spiffe://example.org/train/job-4/**", false),
            ("spiffe://other.org/**", false),
        ] {
            assert_eq!(pattern(text).matches(&id), expected, "{text}");
            assert_eq!(pattern(text).to_string(), text);
        }
    }

    #[test]
    fn what_is_not_a_pattern_is_refused() {
        for text in [
            "spiffe://*/a",
            "spiffe://example.org/a*",
            "spiffe://example.org/**/a",
            "spiffe://example.org/a**",
            "spiffe://example.org/",
            "spiffe://example.org//a",
            "a/b",
        ] {
            assert!(text.parse::<SpiffePattern>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_id_that_all_take_in_is_found_exactly_where_they_overlap() {
        let patterns = [
            "spiffe://d/**",
            "spiffe://d/a/**",
            "spiffe://d/*",
            "spiffe://d/*/*",
            "spiffe://d/a/b",
            "spiffe://d/*/b/c",
            "spiffe://d/a/*/**",
            "spiffe://e/a",
        ]
        .map(pattern);
        for a in &patterns {
            for b in &patterns {
                let found = common_id(&[a, b]);
                assert_eq!(found.is_some(), a.overlaps(b), "{a} {b}");
                assert!(found.is_none_or(|id| a.matches(&id) && b.matches(&id)), "{a} {b}");
            }
        }
        let three = [pattern("spiffe://d/**"), pattern("spiffe://d/*/b/*"), pattern("spiffe://d/a/**")];
        let found = common_id(&three.iter().collect::<Vec<_>>()).expect("they overlap");
        assert_eq!(found.as_str(), "spiffe://d/a/b/any");
    }

    #[test]
    fn overlap_is_seen_both_ways() {
        for (a, b, expected) in [
            ("spiffe://d/a/*", "spiffe://d/*/b", true),
            ("spiffe://d/a/**", "spiffe://d/a/b", true),
            ("spiffe://d/a/**", "spiffe://d/a", false),
            ("spiffe://d/a/**", "spiffe://d/**", true),
            ("spiffe://d/a/*", "spiffe://d/b/*", false),
            ("spiffe://d/a", "spiffe://e/a", false),
        ] {
            assert_eq!(pattern(a).overlaps(&pattern(b)), expected, "{a} {b}");
            assert_eq!(pattern(b).overlaps(&pattern(a)), expected, "{b} {a}");
        }
    }
}
