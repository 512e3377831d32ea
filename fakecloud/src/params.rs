//! The parameters of a query.

use crate::answer::Refusal;

/// Parameters, in the order they came.
#[derive(Clone, Debug)]
pub(crate) struct Params(pub(crate) Vec<(String, String)>);

impl Params {
    /// One that may be left out.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// One that must be there, of so many characters.
    pub(crate) fn text(&self, name: &str, least: usize, most: usize) -> Result<&str, Refusal> {
        let value = self.get(name).ok_or_else(|| {
            Refusal::validation(format!("1 validation error detected: Value null at '{name}' failed to satisfy constraint: Member must not be null"))
        })?;
        match (least..=most).contains(&value.chars().count()) {
            true => Ok(value),
            false => Err(Refusal::validation(format!(
                "1 validation error detected: Value at '{name}' failed to satisfy constraint: Member must have length between {least} and {most}"
            ))),
        }
    }

    /// A whole number that may be left out.
    pub(crate) fn number(&self, name: &str, absent: i64, least: i64, most: i64) -> Result<i64, Refusal> {
        let Some(text) = self.get(name) else { return Ok(absent) };
        match text.parse() {
            Ok(number) if (least..=most).contains(&number) => Ok(number),
            _ => Err(Refusal::validation(format!(
                "1 validation error detected: Value '{text}' at '{name}' failed to satisfy constraint: Member must have value between {least} and {most}"
            ))),
        }
    }

    /// Refuses what would be passed over.
    pub(crate) fn only(&self, known: &[&str]) -> Result<(), Refusal> {
        let other = |(key, _): &&(String, String)| {
            !["Action", "Version"].contains(&key.as_str()) && !known.contains(&key.as_str())
        };
        match self.0.iter().find(other) {
            Some((key, _)) => Err(Refusal::not_known(format!("the parameter {key:?}"))),
            None => Ok(()),
        }
    }
}
