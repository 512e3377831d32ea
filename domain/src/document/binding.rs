//! `kind: Binding`: which identities may use or delegate a scope, and how they may come by it.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Document;
use super::fields::{Fields, Sink};
use crate::binding::{AllowedValues, Binding, Delegation, Start, ViaRule};
use crate::parameter::WholePattern;
use crate::pattern::SpiffePattern;
use crate::time::Ttl;

/// How long after a task was opened a binding grants under it, if it does not say.
pub const DEFAULT_MAX_TASK: Ttl = Ttl::hours(24);
/// The longest any binding may grant under one task.
pub const LONGEST_TASK: Ttl = Ttl::hours(14 * 24);

/// A binding as read; `start` is still open, since its default hangs on the identities' stage.
pub(super) struct Read {
    pub(super) binding: Binding,
    pub(super) start: Option<Start>,
}

pub(super) fn read(document: &Document, sink: &mut Sink<'_>) -> Option<Read> {
    let mut spec = Fields::of(document.spec.clone(), "spec", sink)?;
    let identities = spec.patterns("identities", sink);
    let scope = spec.text("scope", sink);
    let grants = match spec.optional("grants") {
        None => vec!["use".to_owned()],
        Some(value) => {
            let mut one = Fields::of(serde_json::json!({ "grants": value }), "spec", sink)?;
            one.texts("grants", sink)
        }
    };
    for other in grants.iter().filter(|grant| !matches!(grant.as_str(), "use" | "delegate")) {
        sink.fault("spec.grants", format!("{other:?} is not one of use, delegate"));
    }
    let delegate = read_delegation(&mut spec, sink);
    let parameters = read_parameters(&mut spec, sink);
    let start = spec.choice("start", &[("root", Start::Root), ("under_parent", Start::UnderParent)], sink);
    let via = spec.choice("via", &[("agent", ViaRule::Agent), ("direct", ViaRule::Direct)], sink);
    let max_task = spec.span("max_task", DEFAULT_MAX_TASK, sink);
    let until = spec.moment("until", sink);
    let ticket = spec.optional_text("ticket", sink).unwrap_or_default();
    let owner = spec.optional_text("owner", sink).unwrap_or_default();
    spec.finish(sink);
    let hands_on = grants.iter().any(|grant| grant == "delegate");
    if hands_on && delegate.is_none() {
        sink.fault(
            "spec.delegate",
            "`grants: [delegate]` names to whom: `delegate: {to: [pattern…], depth: 1}`".to_owned(),
        );
    }
    if !hands_on && delegate.is_some() {
        sink.fault("spec.grants", "`delegate` is described but not granted; add it to `grants`".to_owned());
    }
    for (key, text) in [("ticket", &ticket), ("owner", &owner)] {
        if text.len() > 256 || text.chars().any(char::is_control) {
            sink.fault(&format!("spec.{key}"), "at most 256 bytes, on one line".to_owned());
        }
    }
    if max_task > LONGEST_TASK || max_task == Ttl::ZERO {
        sink.fault("spec.max_task", format!("must be above 0s and at most {LONGEST_TASK}"));
    }
    let binding = Binding {
        name: document.key.name.clone(),
        identities,
        scope: scope?,
        may_use: grants.iter().any(|grant| grant == "use"),
        delegate: delegate.filter(|_| hands_on),
        parameters,
        start: start.unwrap_or(Start::UnderParent),
        via: via.unwrap_or(ViaRule::Agent),
        max_task,
        until,
        ticket,
        owner,
        digest: document.digest(),
    };
    Some(Read { binding, start })
}

/// The document of a binding, so that it says what `binding` says: for whom, which values, what it grants, where it starts
/// and how long. What else it says stays, its labels too. `start` is written out: its default hangs on the identities.
pub fn rewritten(document: &Document, binding: &Binding) -> Document {
    let mut document = document.clone();
    let Value::Object(spec) = &mut document.spec else { return document };
    let texts = |patterns: &[SpiffePattern]| Value::from_iter(patterns.iter().map(ToString::to_string));
    spec.insert("identities".to_owned(), texts(&binding.identities));
    let grants = [("use", binding.may_use), ("delegate", binding.delegate.is_some())];
    let grants = grants.into_iter().filter(|(_, granted)| *granted).map(|(grant, _)| grant);
    spec.insert("grants".to_owned(), Value::from_iter(grants));
    match &binding.delegate {
        Some(Delegation { to, depth }) => {
            spec.insert("delegate".to_owned(), serde_json::json!({"to": texts(to), "depth": depth}));
        }
        None => drop(spec.remove("delegate")),
    }
    if !binding.parameters.is_empty() {
        let allowed = |allowed: &AllowedValues| match allowed {
            AllowedValues::List(values) => serde_json::json!(values),
            AllowedValues::Pattern(pattern) => serde_json::json!({"pattern": pattern.as_str()}),
        };
        let parameters = binding.parameters.iter().map(|(name, values)| (name.clone(), allowed(values)));
        spec.insert("parameters".to_owned(), Value::Object(parameters.collect()));
    }
    let start = match binding.start {
        Start::Root => "root",
        Start::UnderParent => "under_parent",
    };
    spec.insert("start".to_owned(), start.into());
    if binding.max_task != DEFAULT_MAX_TASK {
        spec.insert("max_task".to_owned(), binding.max_task.to_string().into());
    }
    document
}

fn read_delegation(spec: &mut Fields, sink: &mut Sink<'_>) -> Option<Delegation> {
    let value = spec.optional("delegate")?;
    let mut fields = Fields::of(value, "spec.delegate", sink)?;
    let to = fields.patterns("to", sink);
    let depth = fields.number("depth", 1, sink);
    fields.finish(sink);
    let most = Delegation::MAX_DEPTH;
    match u32::try_from(depth).ok().filter(|depth| (1..=most).contains(depth)) {
        Some(depth) => Some(Delegation { to, depth }),
        None => {
            sink.fault("spec.delegate.depth", format!("must be from 1 to {most}"));
            None
        }
    }
}

fn read_parameters(spec: &mut Fields, sink: &mut Sink<'_>) -> BTreeMap<String, AllowedValues> {
    let Some(value) = spec.optional("parameters") else { return BTreeMap::new() };
    let Some(fields) = Fields::of(value, "spec.parameters", sink) else { return BTreeMap::new() };
    let (path, entries) = fields.into_entries();
    let mut allowed = BTreeMap::new();
    for (name, value) in entries {
        let path = format!("{path}.{name}");
        let values = match value {
            Value::String(one) => Some(AllowedValues::List(vec![one])),
            Value::Array(items) if !items.is_empty() && items.iter().all(Value::is_string) => {
                let texts = items.iter().filter_map(|item| item.as_str().map(str::to_owned));
                Some(AllowedValues::List(texts.collect()))
            }
            Value::Object(_) => read_pattern(value, &path, sink),
            _ => {
                sink.fault(&path, "expected a value, a list of values, or `pattern: …`".to_owned());
                None
            }
        };
        if let Some(values) = values {
            allowed.insert(name, values);
        }
    }
    allowed
}

fn read_pattern(value: Value, path: &str, sink: &mut Sink<'_>) -> Option<AllowedValues> {
    let mut fields = Fields::of(value, path, sink)?;
    let source = fields.text("pattern", sink);
    fields.finish(sink);
    match WholePattern::new(&source?) {
        Ok(pattern) => Some(AllowedValues::Pattern(pattern)),
        Err(problem) => {
            sink.fault(&format!("{path}.pattern"), problem);
            None
        }
    }
}
