//! Reads a JSON object field by field and notes every fault with its path, unknown keys included.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::Fault;
use crate::pattern::SpiffePattern;
use crate::time::{NotAMoment, Timestamp, Ttl};

/// Where the faults of one document go.
pub(super) struct Sink<'a> {
    document: u32,
    subject: String,
    faults: &'a mut Vec<Fault>,
}

impl<'a> Sink<'a> {
    pub(super) fn new(document: u32, subject: String, faults: &'a mut Vec<Fault>) -> Self {
        Self { document, subject, faults }
    }

    pub(super) fn fault(&mut self, path: &str, problem: String) {
        let (document, subject) = (self.document, self.subject.clone());
        self.faults.push(Fault { document, subject, path: path.to_owned(), problem });
    }
}

/// The fields of one object; what is read is taken out, so that what is left is unknown.
pub(super) struct Fields {
    path: String,
    map: Map<String, Value>,
}

impl Fields {
    pub(super) fn of(value: Value, path: &str, sink: &mut Sink<'_>) -> Option<Self> {
        match value {
            Value::Object(map) => Some(Self { path: path.to_owned(), map }),
            other => {
                sink.fault(path, format!("expected a mapping, found {}", kind_of(&other)));
                None
            }
        }
    }

    /// Path of one field.
    pub(super) fn at(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    pub(super) fn optional(&mut self, key: &str) -> Option<Value> {
        self.map.remove(key).filter(|value| !value.is_null())
    }

    /// Whether a field is there and says something.
    pub(super) fn has(&self, key: &str) -> bool {
        self.map.get(key).is_some_and(|value| !value.is_null())
    }

    pub(super) fn required(&mut self, key: &str, sink: &mut Sink<'_>) -> Option<Value> {
        let value = self.optional(key);
        if value.is_none() {
            sink.fault(&self.at(key), "missing".to_owned());
        }
        value
    }

    pub(super) fn text(&mut self, key: &str, sink: &mut Sink<'_>) -> Option<String> {
        let value = self.required(key, sink)?;
        self.as_text(key, value, sink)
    }

    pub(super) fn optional_text(&mut self, key: &str, sink: &mut Sink<'_>) -> Option<String> {
        let value = self.optional(key)?;
        self.as_text(key, value, sink)
    }

    fn as_text(&self, key: &str, value: Value, sink: &mut Sink<'_>) -> Option<String> {
        match value {
            Value::String(text) => Some(text),
            other => {
                sink.fault(&self.at(key), format!("expected text, found {}", kind_of(&other)));
                None
            }
        }
    }

    pub(super) fn flag(&mut self, key: &str, default: bool, sink: &mut Sink<'_>) -> bool {
        match self.optional(key) {
            None => default,
            Some(Value::Bool(flag)) => flag,
            Some(other) => {
                sink.fault(&self.at(key), format!("expected true or false, found {}", kind_of(&other)));
                default
            }
        }
    }

    pub(super) fn number(&mut self, key: &str, default: u64, sink: &mut Sink<'_>) -> u64 {
        match self.optional(key) {
            None => default,
            Some(value) => value.as_u64().unwrap_or_else(|| {
                sink.fault(&self.at(key), "expected a whole number of at least 0".to_owned());
                default
            }),
        }
    }

    /// A number that bounds something; `None` if absent or faulty.
    pub(super) fn limit(&mut self, key: &str, sink: &mut Sink<'_>) -> Option<u32> {
        let value = self.optional(key)?;
        let found = value.as_u64().and_then(|number| u32::try_from(number).ok()).filter(|number| *number > 0);
        if found.is_none() {
            sink.fault(&self.at(key), format!("expected a whole number from 1 to {}", u32::MAX));
        }
        found
    }

    pub(super) fn span(&mut self, key: &str, default: Ttl, sink: &mut Sink<'_>) -> Ttl {
        let Some(text) = self.optional_text(key, sink) else { return default };
        text.parse().unwrap_or_else(|error: crate::time::NotASpan| {
            sink.fault(&self.at(key), error.to_string());
            default
        })
    }

    /// A moment as RFC 3339 has it, with an offset.
    pub(super) fn moment(&mut self, key: &str, sink: &mut Sink<'_>) -> Option<Timestamp> {
        let text = self.optional_text(key, sink)?;
        match text.parse() {
            Ok(moment) => Some(moment),
            Err(NotAMoment) => {
                sink.fault(&self.at(key), NotAMoment.to_string());
                None
            }
        }
    }

    pub(super) fn texts(&mut self, key: &str, sink: &mut Sink<'_>) -> Vec<String> {
        match self.required(key, sink) {
            None => Vec::new(),
            Some(Value::Array(items)) if !items.is_empty() => items
                .into_iter()
                .enumerate()
                .filter_map(|(index, item)| self.as_text(&format!("{key}[{index}]"), item, sink))
                .collect(),
            Some(_) => {
                sink.fault(&self.at(key), "expected a list of at least one".to_owned());
                Vec::new()
            }
        }
    }

    pub(super) fn patterns(&mut self, key: &str, sink: &mut Sink<'_>) -> Vec<SpiffePattern> {
        let texts = self.texts(key, sink);
        let mut patterns = Vec::new();
        for (index, text) in texts.iter().enumerate() {
            match text.parse() {
                Ok(pattern) => patterns.push(pattern),
                Err(error) => sink.fault(&self.at(&format!("{key}[{index}]")), format!("{error}")),
            }
        }
        patterns
    }

    /// A closed choice; `None` if absent or faulty.
    pub(super) fn choice<T: Copy>(
        &mut self,
        key: &str,
        known: &[(&str, T)],
        sink: &mut Sink<'_>,
    ) -> Option<T> {
        let text = self.optional_text(key, sink)?;
        let found = known.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
        if found.is_none() {
            let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
            sink.fault(&self.at(key), format!("{text:?} is not one of {}", names.join(", ")));
        }
        found
    }

    pub(super) fn text_map(&mut self, key: &str, sink: &mut Sink<'_>) -> BTreeMap<String, String> {
        let Some(value) = self.optional(key) else { return BTreeMap::new() };
        let Some(fields) = Fields::of(value, &self.at(key), sink) else { return BTreeMap::new() };
        let Fields { path, map } = fields;
        let mut texts = BTreeMap::new();
        for (name, value) in map {
            match value {
                Value::String(text) => {
                    texts.insert(name, text);
                }
                other => {
                    sink.fault(&format!("{path}.{name}"), format!("expected text, found {}", kind_of(&other)))
                }
            }
        }
        texts
    }

    /// Every field, by name, for mappings whose keys are free.
    pub(super) fn into_entries(self) -> (String, Map<String, Value>) {
        (self.path, self.map)
    }

    /// Notes what nobody asked for.
    pub(super) fn finish(self, sink: &mut Sink<'_>) {
        for key in self.map.keys() {
            let path = self.at(key);
            sink.fault(&path, "unknown key".to_owned());
        }
    }
}

pub(super) fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a mapping",
    }
}
