//! Values that a scope and bindings take: listed where they are few, else in words, with an example that all take.

use std::collections::BTreeMap;

use regex_syntax::ParserBuilder;
use regex_syntax::hir::{Class, Hir, HirKind};

use crate::binding::{AllowedValues, Binding};
use crate::parameter::{ParameterSpec, ParameterType, Parameters, WholePattern};
use crate::scope::Scope;

/// Most combinations of listed values that are decided one by one.
const MOST_COMBINATIONS: usize = 64;
/// Most examples that are made of one pattern.
const MOST_EXAMPLES: usize = 16;

/// What one parameter may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Values {
    /// One of these.
    OneOf(Vec<String>),
    /// Too many to list; what they must be, in words.
    Any(String),
}

impl Values {
    /// Whether a listed value is among them. Those in words are held to scope and binding elsewhere.
    pub(super) fn take(&self, value: &str) -> bool {
        match self {
            Values::OneOf(values) => values.iter().any(|one| one == value),
            Values::Any(_) => true,
        }
    }
}

/// What scope and binding both take, by parameter; a chosen value stands alone.
pub(super) fn of(scope: &Scope, binding: &Binding, chosen: &Parameters) -> BTreeMap<String, Values> {
    let one = |(name, spec): (&String, &ParameterSpec)| {
        let allowed = binding.parameters.get(name);
        let taken = |value: &String| spec.takes(value) && allowed.is_none_or(|allowed| allowed.takes(value));
        let listed = match (chosen.get(name), allowed, &spec.kind) {
            (Some(value), ..) => Some(vec![value.clone()]),
            (None, Some(AllowedValues::List(values)), _) => Some(values.clone()),
            (None, _, ParameterType::Enum(values)) => Some(values.clone()),
            (None, ..) => None,
        };
        let values = match (listed, allowed) {
            (Some(listed), _) => Values::OneOf(listed.into_iter().filter(taken).collect()),
            (None, Some(AllowedValues::Pattern(pattern))) => {
                Values::Any(format!("{spec}, and matches {}", pattern.as_str()))
            }
            (None, _) => Values::Any(spec.to_string()),
        };
        (name.clone(), values)
    };
    scope.parameters.iter().map(one).collect()
}

/// Every combination, where all are listed and they are not too many.
pub(super) fn combinations(values: &BTreeMap<String, Values>) -> Option<Vec<Parameters>> {
    let mut all = vec![Parameters::new()];
    for (name, values) in values {
        let Values::OneOf(values) = values else { return None };
        if all.len().saturating_mul(values.len()) > MOST_COMBINATIONS {
            return None;
        }
        let with = |one: &Parameters| -> Vec<Parameters> {
            let add = |value: &String| {
                let mut more = one.clone();
                more.insert(name.clone(), value.clone());
                more
            };
            values.iter().map(add).collect()
        };
        all = all.iter().flat_map(with).collect();
    }
    Some(all)
}

/// Why there is no example.
pub(super) enum NoValue {
    /// None fits this parameter.
    Fits(String),
    /// None was found.
    Found,
}

/// Values that the scope and all the bindings take, if some can be made up.
pub(super) fn example(
    scope: &Scope,
    chosen: &Parameters,
    bindings: &[&Binding],
) -> Result<Parameters, NoValue> {
    let mut found = Parameters::new();
    for (name, spec) in &scope.parameters {
        let allowed: Vec<&AllowedValues> =
            bindings.iter().filter_map(|binding| binding.parameters.get(name)).collect();
        let taken = |value: &String| spec.takes(value) && allowed.iter().all(|allowed| allowed.takes(value));
        let made_up = || {
            let of_bindings = allowed.iter().flat_map(|allowed| match allowed {
                AllowedValues::List(values) => values.clone(),
                AllowedValues::Pattern(pattern) => examples(pattern),
            });
            of_bindings.chain(of_spec(spec)).find(taken)
        };
        let listed = allowed.iter().any(|allowed| matches!(allowed, AllowedValues::List(_)));
        let all_were_tried =
            chosen.contains_key(name) || listed || matches!(spec.kind, ParameterType::Enum(_));
        let value = match chosen.get(name) {
            Some(value) => Some(value.clone()).filter(taken),
            None => made_up(),
        };
        match value {
            Some(value) => found.insert(name.clone(), value),
            None if all_were_tried => return Err(NoValue::Fits(name.clone())),
            None => return Err(NoValue::Found),
        };
    }
    Ok(found)
}

fn of_spec(spec: &ParameterSpec) -> Vec<String> {
    let mut values = spec.pattern.as_ref().map(examples).unwrap_or_default();
    match &spec.kind {
        ParameterType::Segment | ParameterType::Path => values.extend(["any".to_owned(), "1".to_owned()]),
        ParameterType::Enum(listed) => values.extend(listed.iter().cloned()),
        ParameterType::Int { min, max } => values.extend([min.to_string(), max.to_string()]),
    }
    values
}

/// Some short texts that the pattern may match. Whoever takes one asks the pattern itself.
fn examples(pattern: &WholePattern) -> Vec<String> {
    let parser = ParserBuilder::new().unicode(false).utf8(false).build().parse(pattern.as_str());
    parser.map(|hir| of_hir(&hir)).unwrap_or_default()
}

fn of_hir(hir: &Hir) -> Vec<String> {
    let mut found = match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => vec![String::new()],
        HirKind::Literal(literal) => String::from_utf8(literal.0.to_vec()).into_iter().collect(),
        HirKind::Class(class) => of_class(class),
        HirKind::Capture(capture) => of_hir(&capture.sub),
        HirKind::Alternation(branches) => branches.iter().flat_map(of_hir).collect(),
        HirKind::Concat(parts) => parts.iter().fold(vec![String::new()], |heads, part| {
            let tails = of_hir(part);
            let all = heads.iter().flat_map(|head| tails.iter().map(move |tail| format!("{head}{tail}")));
            all.take(MOST_EXAMPLES).collect()
        }),
        HirKind::Repetition(repetition) => {
            let least = usize::try_from(repetition.min).unwrap_or(usize::MAX);
            let more = repetition.max.is_none_or(|max| max > repetition.min);
            let times = [least.saturating_add(usize::from(more)), least];
            let of_sub = of_hir(&repetition.sub);
            let sized = of_sub.iter().flat_map(|one| times.map(|n| (one, n)));
            sized
                .filter(|(one, n)| one.len().saturating_mul(*n) <= 512)
                .map(|(one, n)| one.repeat(n))
                .collect()
        }
    };
    found.truncate(MOST_EXAMPLES);
    found
}

/// A letter and a digit of the class, or else its first character.
fn of_class(class: &Class) -> Vec<String> {
    let ranges: Vec<(u32, u32)> = match class {
        Class::Unicode(class) => {
            class.iter().map(|range| (range.start().into(), range.end().into())).collect()
        }
        Class::Bytes(class) => class.iter().map(|range| (range.start().into(), range.end().into())).collect(),
    };
    let within = |c: &char| ranges.iter().any(|(from, to)| (*from..=*to).contains(&u32::from(*c)));
    let plain = [('a'..='z').find(within), ('A'..='Z').find(within), ('0'..='9').find(within)];
    let first = ranges.first().and_then(|(from, _)| char::from_u32(*from));
    plain.into_iter().flatten().chain(first).map(String::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_given_an_example_that_it_matches() {
        for source in [
            "corpus-[0-9]+",
            "a|b",
            "[a-c]{3,5}x?",
            "(team|org)/[a-z0-9-]+",
            "(?i)model-[0-9]{2}",
            "[a-z]*-v[0-9.]+/final",
            "x{64}",
        ] {
            let pattern = WholePattern::new(source).expect("a pattern");
            assert!(
                examples(&pattern).iter().any(|one| pattern.matches(one)),
                "{source}: {:?}",
                examples(&pattern)
            );
        }
    }

    #[test]
    fn combinations_are_counted_out_or_not_at_all() {
        let listed = |count: usize| Values::OneOf((0..count).map(|n| n.to_string()).collect());
        let of = |values: &[Values]| {
            let named = values.iter().enumerate().map(|(n, values)| (n.to_string(), values.clone()));
            combinations(&named.collect()).map(|all| all.len())
        };
        assert_eq!(of(&[]), Some(1));
        assert_eq!(of(&[listed(3), listed(4)]), Some(12));
        assert_eq!(of(&[listed(3), listed(0)]), Some(0));
        assert_eq!(of(&[listed(8), listed(9)]), None);
        assert_eq!(of(&[listed(1), Values::Any(String::new())]), None);
    }
}
