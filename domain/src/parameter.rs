//! Typed parameters of a scope. No value can bring a wildcard, a traversal or a quote into a rendered template.

use std::collections::BTreeMap;
use std::fmt;

use regex::Regex;
use thiserror::Error;

/// Longest value of a `segment`.
pub const MAX_SEGMENT: usize = 64;
/// Longest value of a `path`.
pub const MAX_PATH: usize = 512;
/// Most parameters of one scope.
pub const MAX_PARAMETERS: usize = 16;

/// Parameter values by name, as asked or as checked.
pub type Parameters = BTreeMap<String, String>;

/// What values a parameter takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ParameterType {
    /// `[A-Za-z0-9][A-Za-z0-9._-]{0,63}`, never with `..` in it.
    Segment,
    /// Segments joined by `/`, at most 512 bytes.
    Path,
    /// One of a list. The only type that may form a role name or a mount.
    Enum(Vec<String>),
    /// A whole number within bounds, written without sign or leading zero.
    Int {
        /// Smallest value.
        min: u64,
        /// Largest value.
        max: u64,
    },
}

/// A parameter as a scope declares it.
#[derive(Clone, Debug)]
pub struct ParameterSpec {
    /// What values it takes.
    pub kind: ParameterType,
    /// A pattern that narrows the type, matched against the whole value.
    pub pattern: Option<WholePattern>,
}

/// Why a value is not one the parameter takes.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ParameterFault {
    /// The scope has no such parameter.
    #[error("there is no parameter {0:?}")]
    Unknown(String),
    /// The scope needs it.
    #[error("parameter {0:?} is missing")]
    Missing(String),
    /// The value is outside the type or the pattern.
    #[error("parameter {name:?} must be {expected}")]
    Value {
        /// The parameter.
        name: String,
        /// What it takes, in words.
        expected: String,
    },
}

impl ParameterSpec {
    /// Whether the parameter takes this value.
    pub fn takes(&self, value: &str) -> bool {
        let of_type = match &self.kind {
            ParameterType::Segment => is_value_segment(value),
            ParameterType::Path => value.len() <= MAX_PATH && value.split('/').all(is_value_segment),
            ParameterType::Enum(values) => values.iter().any(|allowed| allowed == value),
            ParameterType::Int { min, max } => {
                let plain = value == "0" || !value.starts_with('0');
                let digits = value.len() <= 20 && value.bytes().all(|byte| byte.is_ascii_digit());
                plain && digits && value.parse::<u64>().is_ok_and(|n| (*min..=*max).contains(&n))
            }
        };
        of_type && self.pattern.as_ref().is_none_or(|pattern| pattern.matches(value))
    }
}

impl fmt::Display for ParameterSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            ParameterType::Segment => {
                f.write_str("a segment (letters, digits, dot, dash, underscore; at most 64)")?
            }
            ParameterType::Path => f.write_str("a path of segments joined by /")?,
            ParameterType::Enum(values) => write!(f, "one of {}", values.join(", "))?,
            ParameterType::Int { min, max } => write!(f, "a whole number from {min} to {max}")?,
        }
        match &self.pattern {
            Some(pattern) => write!(f, " that matches {}", pattern.as_str()),
            None => Ok(()),
        }
    }
}

/// Checks asked values against a scope's parameters, or tells every fault.
pub fn check(specs: &BTreeMap<String, ParameterSpec>, asked: &Parameters) -> Result<(), Vec<ParameterFault>> {
    let unknown = asked
        .keys()
        .filter(|name| !specs.contains_key(*name))
        .map(|name| ParameterFault::Unknown(clip(name)));
    let faulty = specs.iter().filter_map(|(name, spec)| match asked.get(name) {
        None => Some(ParameterFault::Missing(name.clone())),
        Some(value) if spec.takes(value) => None,
        Some(_) => Some(ParameterFault::Value { name: name.clone(), expected: spec.to_string() }),
    });
    let faults: Vec<_> = unknown.chain(faulty).collect();
    if faults.is_empty() { Ok(()) } else { Err(faults) }
}

/// A caller's own text, cut short before it is shown back.
fn clip(text: &str) -> String {
    text.chars().take(64).collect()
}

/// One segment of a value: `[A-Za-z0-9][A-Za-z0-9._-]{0,63}` without `..`.
fn is_value_segment(value: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    value.len() <= MAX_SEGMENT
        && value.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric())
        && value.bytes().all(legal)
        && !value.contains("..")
}

/// A regular expression that matches a value only as a whole, in linear time.
#[derive(Clone)]
pub struct WholePattern {
    source: String,
    compiled: Regex,
}

impl WholePattern {
    /// Compiles the expression, anchored at both ends.
    pub fn new(source: &str) -> Result<Self, String> {
        if source.len() > 256 {
            return Err("a pattern has at most 256 bytes".to_owned());
        }
        // \A and \z: unlike ^ and $ no flag turns them into line anchors.
        let compiled = regex::RegexBuilder::new(&format!(r"\A(?:{source})\z"))
            .size_limit(1 << 18)
            .unicode(false)
            .build()
            .map_err(|error| error.to_string().lines().last().unwrap_or("not a pattern").trim().to_owned())?;
        Ok(Self { source: source.to_owned(), compiled })
    }

    /// Whether the whole value matches.
    pub fn matches(&self, value: &str) -> bool {
        self.compiled.is_match(value)
    }

    /// The expression as written.
    pub fn as_str(&self) -> &str {
        &self.source
    }
}

impl fmt::Debug for WholePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}/", self.source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(kind: ParameterType, pattern: Option<&str>) -> ParameterSpec {
        ParameterSpec { kind, pattern: pattern.map(|p| WholePattern::new(p).expect("a pattern")) }
    }

    #[test]
    fn values_that_could_break_out_of_a_template_are_refused() {
        let segment = spec(ParameterType::Segment, None);
        let path = spec(ParameterType::Path, None);
        for value in [
            "",
            "*",
            "a*",
            "a?",
            "a/b/",
            "/a",
            "a//b",
            "..",
            "a/../b",
            "a..b",
            "${aws:username}",
            "a\n",
            "a\"",
            "ä",
            "+",
            "-a",
            "{x}",
        ] {
            assert!(!path.takes(value), "{value:?}");
            assert!(!segment.takes(value), "{value:?}");
        }
        assert!(segment.takes("corpus-7") && !segment.takes("a/b") && path.takes("a/b.c/d_e"));
        assert!(!segment.takes(&"a".repeat(65)));
    }

    #[test]
    fn a_pattern_matches_the_whole_value() {
        let narrowed = spec(ParameterType::Segment, Some("corpus-[0-9]+|x"));
        assert!(narrowed.takes("corpus-7") && narrowed.takes("x"));
        assert!(!narrowed.takes("corpus-7a") && !narrowed.takes("my-corpus-7"));
        let multi_line = WholePattern::new("(?m)^a$").expect("a pattern");
        assert!(!multi_line.matches("a\nb"));
    }

    #[test]
    fn numbers_have_one_spelling() {
        let int = spec(ParameterType::Int { min: 0, max: 20 }, None);
        assert!(int.takes("0") && int.takes("20"));
        for value in ["21", "007", "-1", "+1", "1.0", "1e1", "", " 1", "99999999999999999999999"] {
            assert!(!int.takes(value), "{value:?}");
        }
    }
}
