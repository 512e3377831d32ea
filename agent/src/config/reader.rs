//! Reads a TOML table key by key and remembers every fault, so that a person sees all of them at once.

use std::fmt::{self, Display, Formatter};
use std::str::FromStr;
use std::time::Duration;

use toml::{Table, Value};

/// One thing that is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// `section.key`.
    pub path: String,
    /// What is wrong, and what would be right.
    pub what: String,
}

impl Display for Fault {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.what)
    }
}

/// A configuration being read.
pub(super) struct Reader {
    root: Table,
    faults: Vec<Fault>,
}

impl Reader {
    pub(super) fn new(root: Table) -> Self {
        Self { root, faults: Vec::new() }
    }

    /// Lets variables of the form `DAYFLY_SECTION__KEY` replace what the file says. Variables of sections that do not
    /// exist here may be another program's and are passed over.
    pub(super) fn override_with(
        &mut self,
        vars: impl IntoIterator<Item = (String, String)>,
        sections: &[&str],
    ) {
        for (name, value) in vars {
            let Some((section, key)) = name.strip_prefix("DAYFLY_").and_then(|rest| rest.split_once("__"))
            else {
                continue;
            };
            let section = section.to_ascii_lowercase();
            if !sections.contains(&section.as_str()) {
                continue;
            }
            let table = self.root.entry(section).or_insert_with(|| Value::Table(Table::new()));
            if let Value::Table(table) = table {
                table.insert(key.to_ascii_lowercase(), Value::String(value));
            }
        }
    }

    /// Takes a section out; what `read` does not take from it is unknown.
    pub(super) fn section<T>(&mut self, name: &'static str, read: impl FnOnce(&mut Section<'_>) -> T) -> T {
        let table = match self.root.remove(name) {
            Some(Value::Table(table)) => table,
            None => Table::new(),
            Some(_) => {
                self.faults
                    .push(Fault { path: name.to_owned(), what: format!("write it as a section, [{name}]") });
                Table::new()
            }
        };
        let mut section = Section { name, table, faults: &mut self.faults };
        let read = read(&mut section);
        let unknown: Vec<String> = section.table.keys().cloned().collect();
        for key in unknown {
            section.fault(&key, "unknown key; remove it or correct its name");
        }
        read
    }

    /// All faults, those of unknown sections included.
    pub(super) fn finish(mut self) -> Vec<Fault> {
        for section in self.root.keys() {
            let what = "unknown section; remove it or correct its name".to_owned();
            self.faults.push(Fault { path: section.clone(), what });
        }
        self.faults
    }
}

/// One section being read.
pub(super) struct Section<'a> {
    name: &'static str,
    table: Table,
    faults: &'a mut Vec<Fault>,
}

impl Section<'_> {
    pub(super) fn fault(&mut self, key: &str, what: impl Into<String>) {
        self.faults.push(Fault { path: format!("{}.{key}", self.name), what: what.into() });
    }

    pub(super) fn text(&mut self, key: &str) -> Option<String> {
        match self.table.remove(key)? {
            Value::String(text) => Some(text),
            _ => {
                self.fault(key, "must be a string in quotes");
                None
            }
        }
    }

    pub(super) fn require(&mut self, key: &str) {
        if !self.table.contains_key(key) {
            self.fault(key, "is missing");
        }
    }

    pub(super) fn required(&mut self, key: &str) -> Option<String> {
        self.require(key);
        self.text(key)
    }

    /// A string that `T` can be read from.
    pub(super) fn parsed<T>(&mut self, key: &str) -> Option<T>
    where
        T: FromStr,
        T::Err: Display,
    {
        let text = self.text(key)?;
        match text.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.fault(key, format!("`{text}` cannot be used: {error}"));
                None
            }
        }
    }

    pub(super) fn flag(&mut self, key: &str, default: bool) -> bool {
        match self.table.remove(key) {
            None => default,
            Some(Value::Boolean(flag)) => flag,
            Some(Value::String(text)) if text == "true" => true,
            Some(Value::String(text)) if text == "false" => false,
            Some(_) => {
                self.fault(key, "must be true or false");
                default
            }
        }
    }

    pub(super) fn number(&mut self, key: &str, default: u32, at_least: u32) -> u32 {
        let number = match self.table.remove(key) {
            None => return default,
            Some(Value::Integer(number)) => u32::try_from(number).ok(),
            Some(Value::String(text)) => text.parse().ok(),
            Some(_) => None,
        };
        match number {
            Some(number) if number >= at_least => number,
            _ => {
                self.fault(key, format!("must be a whole number, {at_least} or more"));
                default
            }
        }
    }

    /// Permission bits, written as a string of octal digits.
    pub(super) fn mode(&mut self, key: &str, default: u32) -> u32 {
        let Some(text) = self.text(key) else { return default };
        match u32::from_str_radix(&text, 8) {
            Ok(mode) if mode <= 0o777 => mode,
            _ => {
                self.fault(
                    key,
                    format!("`{text}` is no mode; write octal digits in quotes, for example \"0666\""),
                );
                default
            }
        }
    }

    /// A span such as `500ms`, `30s`, `5m` or `1h`.
    pub(super) fn span(&mut self, key: &str, default: Duration) -> Duration {
        let Some(text) = self.text(key) else { return default };
        match span(&text) {
            Some(span) if !span.is_zero() => span,
            _ => {
                self.fault(key, format!("`{text}` is no span of time; write for example 500ms, 30s, 5m, 1h"));
                default
            }
        }
    }
}

fn span(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    Some(match unit {
        "ms" => Duration::from_millis(number),
        "s" => Duration::from_secs(number),
        "m" => Duration::from_secs(number.checked_mul(60)?),
        "h" => Duration::from_secs(number.checked_mul(3600)?),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_a_number_and_a_unit() {
        assert_eq!(span("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(span("5m"), Some(Duration::from_secs(300)));
        for text in ["", "5", "s", "5 s", "-1s", "1d", "99999999999999999999h"] {
            assert_eq!(span(text), None, "{text}");
        }
    }
}
