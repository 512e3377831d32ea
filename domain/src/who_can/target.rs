//! Finds a piece of text in what a scope's target may become: a bucket, an audience, a policy's name.

use crate::parameter::Parameters;
use crate::scope::Scope;
use crate::template::{Piece, pieces};

/// Longest text that is looked for.
pub const LONGEST_TEXT: usize = 512;

/// A place in a target where the text stands, or would stand with some values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Where: `session_policy.Statement[0].Resource`.
    pub path: String,
    /// The leaf as written, parameters in braces.
    pub leaf: String,
    /// The values with which the text stands there; empty where it is written out.
    pub values: Parameters,
}

/// Every place where the text stands. It must touch something that is written out: a parameter alone could be anything.
pub fn places(scope: &Scope, text: &str) -> Vec<Place> {
    if text.is_empty() || text.len() > LONGEST_TEXT {
        return Vec::new();
    }
    let found = scope.target.leaves().into_iter().filter_map(|(path, leaf)| {
        let values = find(scope, leaf, text)?;
        Some(Place { path, leaf: leaf.to_owned(), values })
    });
    found.collect()
}

fn find(scope: &Scope, leaf: &str, text: &str) -> Option<Parameters> {
    if leaf.contains(text) {
        return Some(Parameters::new());
    }
    let pieces = pieces(leaf).ok()?;
    let from_piece = |at: usize| {
        let starts: Vec<usize> = match pieces[at] {
            Piece::Text(literal) => literal.char_indices().map(|(start, _)| start).collect(),
            Piece::Parameter(_) => vec![0],
        };
        starts.into_iter().find_map(|start| {
            let mut way = Way { scope, touched: false, values: Parameters::new() };
            way.goes(&pieces[at..], start, text).then_some(way.values)
        })
    };
    (0..pieces.len()).find_map(from_piece)
}

struct Way<'a> {
    scope: &'a Scope,
    /// Whether it went through something that is written out, separators aside.
    touched: bool,
    values: Parameters,
}

impl Way<'_> {
    /// Whether the text goes on from `start` of the first piece and ends anywhere.
    fn goes(&mut self, pieces: &[Piece<'_>], start: usize, text: &str) -> bool {
        let Some((first, rest)) = pieces.split_first() else { return text.is_empty() && self.touched };
        match first {
            Piece::Text(literal) => {
                let literal = &literal[start..];
                let shared = literal.len().min(text.len());
                if !text.is_char_boundary(shared) || literal.as_bytes()[..shared] != text.as_bytes()[..shared]
                {
                    return false;
                }
                let before = self.touched;
                self.touched |= literal[..shared].chars().any(char::is_alphanumeric);
                let goes = match &text[shared..] {
                    "" => self.touched,
                    more => self.goes(rest, 0, more),
                };
                if !goes {
                    self.touched = before;
                }
                goes
            }
            Piece::Parameter(name) => {
                let Some(spec) = self.scope.parameters.get(*name) else { return false };
                // The longest value first: `corpus-70` is not `corpus-7` and a 0.
                let ends = text.char_indices().map(|(at, c)| at + c.len_utf8()).rev();
                for end in ends.filter(|end| spec.takes(&text[..*end])) {
                    let value = text[..end].to_owned();
                    if self.values.get(*name).is_some_and(|other| *other != value) {
                        continue;
                    }
                    let before = self.values.insert((*name).to_owned(), value);
                    if self.goes(rest, 0, &text[end..]) {
                        return true;
                    }
                    match before {
                        Some(before) => self.values.insert((*name).to_owned(), before),
                        None => self.values.remove(*name),
                    };
                }
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document;
    use crate::node::TrustDomainRule;
    use crate::stage::Stage;

    fn scope() -> Scope {
        let yaml = r#"
kind: Scope
metadata: {name: s3}
spec:
  stages: [training]
  parameters: {dataset: {type: segment}, team: {type: enum, values: [vision, text]}}
  target:
    aws:
      role_arn: "arn:aws:iam::123456789012:role/train-{team}"
      session_policy:
        Statement:
          - Action: ["s3:GetObject"]
            Resource: "arn:aws:s3:::train-data/{team}/{dataset}/*"
      any: "{dataset}"
"#;
        let domain =
            TrustDomainRule { name: "example.org".into(), stages: Stage::ALL.into(), patterns: Vec::new() };
        let (documents, faults) = document::parse(yaml);
        assert_eq!(faults, []);
        let rules = document::compile(1, &[domain], &documents).expect("no faults");
        (**rules.scope("s3").expect("it is there")).clone()
    }

    #[test]
    fn a_text_is_found_as_written_and_as_values_would_make_it() {
        let scope = scope();
        let found = |text: &str| -> Vec<(String, String)> {
            let told = |place: Place| {
                let values = place.values.iter().map(|(name, value)| format!("{name}={value}"));
                (place.path, values.collect::<Vec<_>>().join(" "))
            };
            places(&scope, text).into_iter().map(told).collect()
        };
        let resource = "session_policy.Statement[0].Resource".to_owned();
        assert_eq!(found("train-data"), [(resource.clone(), String::new())]);
        assert_eq!(found("s3:GetObject"), [("session_policy.Statement[0].Action[0]".into(), String::new())]);
        assert_eq!(
            found("arn:aws:s3:::train-data/vision/corpus-7/*"),
            [(resource.clone(), "dataset=corpus-7 team=vision".into())]
        );
        assert_eq!(found("data/text/corpus-7"), [(resource, "dataset=corpus-7 team=text".into())]);
        assert_eq!(found("role/train-vision"), [("role_arn".into(), "team=vision".into())]);
        // No such team; a parameter alone could be anything.
        assert_eq!(found("role/train-audio"), []);
        assert_eq!(found("corpus-7"), []);
        assert_eq!(found("/").len(), 2, "what is written out is found, whatever it is");
        assert_eq!(found(""), []);
    }
}
