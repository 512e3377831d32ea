//! Conditions (AWS, "IAM JSON policy elements: Condition operators", "Multivalued context keys").

use jiff::{Timestamp, civil};

use super::PolicyError;
use super::context::{Context, Key};
use super::pattern::{Pattern, Reading};

/// What is compared. `Not…` operators are the same with `negated` set.
#[derive(Clone, Debug)]
enum Test {
    Exact(Vec<Pattern>),
    ExactAnyCase(Vec<Pattern>),
    Like(Vec<Pattern>),
    Arn(Vec<Pattern>),
    Date(fn(&Timestamp, &Timestamp) -> bool, Vec<Timestamp>),
    Bool(Vec<bool>),
    Null(bool),
}

/// The word before the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Quantifier {
    ForAllValues,
    ForAnyValue,
}

/// One operator on one key.
#[derive(Clone, Debug)]
pub(super) struct Condition {
    key: Key,
    quantifier: Option<Quantifier>,
    test: Test,
    negated: bool,
    if_exists: bool,
}

impl Condition {
    /// # Errors
    /// An operator or key that is not known, or a value that does not go with it.
    pub(super) fn parse(
        operator: &str,
        key: &str,
        values: &[String],
        variables: bool,
    ) -> Result<Self, PolicyError> {
        let (quantifier, rest) = match operator.split_once(':') {
            None => (None, operator),
            Some(("ForAllValues", rest)) => (Some(Quantifier::ForAllValues), rest),
            Some(("ForAnyValue", rest)) => (Some(Quantifier::ForAnyValue), rest),
            Some(_) => return PolicyError::unknown(format!("the condition operator {operator:?}")),
        };
        let (name, if_exists) = match rest.strip_suffix("IfExists") {
            Some(name) => (name, true),
            None => (rest, false),
        };
        let key = Key::parse(key)?;
        if values.is_empty() {
            return PolicyError::malformed(format!("{operator} has no value"));
        }
        if key.is_multiple() && quantifier.is_none() && name != "Null" {
            return PolicyError::malformed(format!(
                "{operator} on a key of many values needs ForAllValues or ForAnyValue"
            ));
        }
        let patterns = |wildcards| {
            let reading = Reading { wildcards, variables };
            values.iter().map(|value| Pattern::parse(value, reading)).collect::<Result<Vec<_>, _>>()
        };
        let dates = |compare: fn(&Timestamp, &Timestamp) -> bool| {
            let read = |value: &String| match date(value) {
                Some(date) => Ok(date),
                None => PolicyError::malformed(format!("{value:?} is no date")),
            };
            values.iter().map(read).collect::<Result<_, _>>().map(|dates| Test::Date(compare, dates))
        };
        let (test, negated) = match name {
            "StringEquals" => (Test::Exact(patterns(false)?), false),
            "StringNotEquals" => (Test::Exact(patterns(false)?), true),
            "StringEqualsIgnoreCase" => (Test::ExactAnyCase(patterns(false)?), false),
            "StringNotEqualsIgnoreCase" => (Test::ExactAnyCase(patterns(false)?), true),
            "StringLike" => (Test::Like(patterns(true)?), false),
            "StringNotLike" => (Test::Like(patterns(true)?), true),
            "ArnEquals" | "ArnLike" => (Test::Arn(patterns(true)?), false),
            "ArnNotEquals" | "ArnNotLike" => (Test::Arn(patterns(true)?), true),
            "DateEquals" => (dates(Timestamp::eq)?, false),
            "DateNotEquals" => (dates(Timestamp::eq)?, true),
            "DateLessThan" => (dates(Timestamp::lt)?, false),
            "DateLessThanEquals" => (dates(Timestamp::le)?, false),
            "DateGreaterThan" => (dates(Timestamp::gt)?, false),
            "DateGreaterThanEquals" => (dates(Timestamp::ge)?, false),
            "Bool" => {
                (Test::Bool(values.iter().map(|value| boolean(value)).collect::<Result<_, _>>()?), false)
            }
            "Null" if quantifier.is_none() && !if_exists && values.len() == 1 => {
                (Test::Null(boolean(&values[0])?), false)
            }
            _ => return PolicyError::unknown(format!("the condition operator {operator:?}")),
        };
        Ok(Self { key, quantifier, test, negated, if_exists })
    }

    /// # Errors
    /// A negated comparison with a variable that has no value: AWS does not say what becomes of it.
    pub(super) fn holds(&self, context: &Context) -> Result<bool, PolicyError> {
        let values = context.get(&self.key);
        if let Test::Null(wanted) = self.test {
            return Ok(values.is_none_or(<[String]>::is_empty) == wanted);
        }
        if let (
            Some(_),
            true,
            Test::Exact(wanted) | Test::ExactAnyCase(wanted) | Test::Like(wanted) | Test::Arn(wanted),
        ) = (values, self.negated, &self.test)
            && wanted.iter().any(|pattern| pattern.is_void(context))
        {
            return PolicyError::unknown("a negated comparison with a variable that has no value");
        }
        // A negated operator holds if no listed value fits (NOR), another if one does (OR).
        let one = |value: &String| self.fits(value, context) != self.negated;
        Ok(match (self.quantifier, values) {
            (_, None | Some([])) if self.if_exists => true,
            (Some(Quantifier::ForAllValues), None) => true,
            (Some(Quantifier::ForAnyValue), None) => false,
            // "If the key that you specify in a policy condition is not present in the request context, the values do not
            // match" — which is what a negated operator asks for.
            (None, None | Some([])) => self.negated,
            (Some(Quantifier::ForAllValues), Some(values)) => values.iter().all(one),
            (Some(Quantifier::ForAnyValue) | None, Some(values)) => values.iter().any(one),
        })
    }

    fn fits(&self, value: &str, context: &Context) -> bool {
        match &self.test {
            Test::Exact(wanted) | Test::Like(wanted) => wanted.iter().any(|text| text.fits(value, context)),
            Test::ExactAnyCase(wanted) => wanted.iter().any(|text| text.fits_any_case(value, context)),
            Test::Arn(wanted) => wanted.iter().any(|text| text.fits_arn(value, context)),
            Test::Date(compare, wanted) => {
                date(value).is_some_and(|value| wanted.iter().any(|wanted| compare(&value, wanted)))
            }
            Test::Bool(wanted) => boolean(value).is_ok_and(|value| wanted.contains(&value)),
            Test::Null(_) => false,
        }
    }
}

fn boolean(text: &str) -> Result<bool, PolicyError> {
    match text.to_ascii_lowercase().as_str() {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => PolicyError::malformed(format!("{text:?} is neither true nor false")),
    }
}

/// ISO 8601 with a zone, a date alone, or seconds since 1970.
fn date(text: &str) -> Option<Timestamp> {
    if let Ok(seconds) = text.parse::<i64>() {
        return Timestamp::from_second(seconds).ok();
    }
    let midnight = || text.parse::<civil::Date>().ok()?.in_tz("UTC").ok().map(|day| day.timestamp());
    text.parse().ok().or_else(midnight)
}
