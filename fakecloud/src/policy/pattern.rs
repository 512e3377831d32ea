//! Texts of a policy: wildcards and policy variables (AWS, "IAM policy elements: Variables and tags").

use std::borrow::Cow;

use super::PolicyError;
use super::context::{Context, Key};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Piece {
    Is(char),
    /// `*`
    Any,
    /// `?`
    One,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Fixed(Vec<Piece>),
    /// `${key}` or `${key, 'default'}`.
    Variable(Key, Option<String>),
}

/// How a text is read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    /// `*` and `?` stand for other characters.
    pub(super) wildcards: bool,
    /// `${…}` is replaced: only in policies of version 2012-10-17.
    pub(super) variables: bool,
}

/// A text that may hold wildcards and variables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pattern(Vec<Part>);

impl Pattern {
    /// # Errors
    /// A variable that is not closed, or names a key that is not known.
    pub(super) fn parse(text: &str, reading: Reading) -> Result<Self, PolicyError> {
        let piece = |letter| match letter {
            '*' if reading.wildcards => Piece::Any,
            '?' if reading.wildcards => Piece::One,
            other => Piece::Is(other),
        };
        let mut parts = Vec::new();
        let mut fixed = Vec::new();
        let mut rest = text;
        while let Some(letter) = rest.chars().next() {
            let Some(inside) = rest.strip_prefix("${").filter(|_| reading.variables) else {
                fixed.push(piece(letter));
                rest = &rest[letter.len_utf8()..];
                continue;
            };
            let Some((name, after)) = inside.split_once('}') else {
                return PolicyError::malformed(format!("the variable in {text:?} is not closed"));
            };
            rest = after;
            match name {
                "*" | "?" | "$" => fixed.extend(name.chars().map(Piece::Is)),
                name => {
                    parts.push(Part::Fixed(std::mem::take(&mut fixed)));
                    parts.push(variable(name)?);
                }
            }
        }
        parts.push(Part::Fixed(fixed));
        Ok(Self(parts))
    }

    /// Whether the value of a variable is missing, so that the text means nothing in this request.
    pub(super) fn is_void(&self, context: &Context) -> bool {
        self.pieces(context).is_none()
    }

    /// Whether a value fits, whole. One with a missing variable fits nothing.
    pub(super) fn fits(&self, value: &str, context: &Context) -> bool {
        self.pieces(context).is_some_and(|pieces| fits(&pieces, &value.chars().collect::<Vec<_>>()))
    }

    /// As [`Pattern::fits`], without regard to case.
    pub(super) fn fits_any_case(&self, value: &str, context: &Context) -> bool {
        let lower = |letter: char| letter.to_lowercase().next().unwrap_or(letter);
        let value: Vec<char> = value.chars().map(lower).collect();
        self.pieces(context).is_some_and(|pieces| {
            let pieces: Vec<Piece> = pieces
                .iter()
                .map(|piece| match piece {
                    Piece::Is(letter) => Piece::Is(lower(*letter)),
                    other => *other,
                })
                .collect();
            fits(&pieces, &value)
        })
    }

    /// As [`Pattern::fits`] for ARNs: each of the six parts by itself, so that a `*` takes in no colon before the last
    /// (AWS, "ARN condition operators"). A lone `*` takes in all.
    pub(super) fn fits_arn(&self, value: &str, context: &Context) -> bool {
        let Some(pieces) = self.pieces(context) else { return false };
        if *pieces == [Piece::Any] {
            return true;
        }
        let value: Vec<char> = value.chars().collect();
        let wanted: Vec<_> = pieces.splitn(6, |piece| *piece == Piece::Is(':')).collect();
        let found: Vec<_> = value.splitn(6, |letter| *letter == ':').collect();
        wanted.len() == 6
            && found.len() == 6
            && wanted.iter().zip(&found).all(|(want, have)| fits(want, have))
    }

    /// With all variables replaced. The value of a variable is text: a `*` in it stands for itself.
    fn pieces(&self, context: &Context) -> Option<Cow<'_, [Piece]>> {
        if let [Part::Fixed(pieces)] = self.0.as_slice() {
            return Some(Cow::Borrowed(pieces));
        }
        let mut whole = Vec::new();
        for part in &self.0 {
            match part {
                Part::Fixed(pieces) => whole.extend(pieces),
                Part::Variable(key, default) => {
                    let value = match context.get(key) {
                        Some([one]) => Some(one),
                        Some(_) | None => default.as_ref(),
                    };
                    whole.extend(value?.chars().map(Piece::Is));
                }
            }
        }
        Some(Cow::Owned(whole))
    }
}

fn variable(name: &str) -> Result<Part, PolicyError> {
    let (key, default) = match name.split_once(',') {
        None => (name, None),
        Some((key, default)) => {
            let text = default.trim().strip_prefix('\'').and_then(|text| text.strip_suffix('\''));
            match text {
                Some(text) => (key, Some(text.to_owned())),
                None => {
                    return PolicyError::malformed(format!("the default in ${{{name}}} is not in quotes"));
                }
            }
        }
    };
    let key = Key::parse(key.trim())?;
    if key.is_multiple() {
        return PolicyError::malformed(format!("the variable ${{{name}}} has more than one value"));
    }
    Ok(Part::Variable(key, default))
}

/// Linear but for one step back per `*`.
fn fits(pattern: &[Piece], text: &[char]) -> bool {
    let (mut at, mut read) = (0, 0);
    let mut star = None;
    while read < text.len() {
        match pattern.get(at) {
            Some(Piece::Any) => {
                star = Some((at, read));
                at += 1;
                continue;
            }
            Some(Piece::Is(letter)) if *letter == text[read] => {}
            Some(Piece::One) => {}
            Some(Piece::Is(_)) | None => {
                let Some((from, taken)) = star else { return false };
                star = Some((from, taken + 1));
                (at, read) = (from + 1, taken + 1);
                continue;
            }
        }
        at += 1;
        read += 1;
    }
    pattern[at..].iter().all(|piece| *piece == Piece::Any)
}

/// Whether a text has the six parts of an ARN.
pub(super) fn is_arn(text: &str) -> bool {
    text.starts_with("arn:") && text.splitn(6, ':').count() == 6
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition itself, as slow as it is plain.
    fn plainly(pattern: &[char], text: &[char]) -> bool {
        match (pattern, text) {
            ([], text) => text.is_empty(),
            (['*', rest @ ..], text) => (0..=text.len()).any(|taken| plainly(rest, &text[taken..])),
            (['?', rest @ ..], [_, after @ ..]) => plainly(rest, after),
            ([letter, rest @ ..], [first, after @ ..]) => letter == first && plainly(rest, after),
            (_, []) => false,
        }
    }

    fn words(letters: &str, longest: usize) -> Vec<String> {
        let mut all = vec![String::new()];
        let mut last = all.clone();
        for _ in 0..longest {
            last = last
                .iter()
                .flat_map(|word| letters.chars().map(move |letter| format!("{word}{letter}")))
                .collect();
            all.extend(last.iter().cloned());
        }
        all
    }

    #[test]
    fn wildcards_mean_what_their_definition_says_for_all_short_words() {
        let texts = words("ab", 4);
        let context = Context::default();
        for pattern in words("ab*?", 4) {
            let read =
                Pattern::parse(&pattern, Reading { wildcards: true, variables: true }).expect("no variable");
            for text in &texts {
                let expected =
                    plainly(&pattern.chars().collect::<Vec<_>>(), &text.chars().collect::<Vec<_>>());
                assert_eq!(read.fits(text, &context), expected, "{pattern:?} {text:?}");
            }
        }
    }
}
