//! `kind: Scope`: stages, typed parameters, times, and one target.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::Document;
use super::fields::{Fields, Sink, kind_of};
use crate::parameter::{MAX_PARAMETERS, ParameterSpec, ParameterType, WholePattern};
use crate::scope::{ApprovalRule, OnAgentLoss, Scope, ScopeLimits, TtlLimits};
use crate::stage::Stage;
use crate::task::AnchorKind;
use crate::template::Template;
use crate::time::Ttl;

/// Life of a credential, if the scope does not say.
pub const DEFAULT_TTL: Ttl = Ttl::minutes(5);
/// Longest life of a credential that any scope may give.
pub const LONGEST_TTL: Ttl = Ttl::hours(12);
/// Most words of `leaves_behind`.
pub const MAX_LEFT_BEHIND: usize = 8;

/// How long an approval stands at most, if the scope does not say.
pub const DEFAULT_APPROVAL: Ttl = Ttl::hours(8);
/// The longest any approval may stand.
pub const LONGEST_APPROVAL: Ttl = Ttl::hours(30 * 24);

pub(super) fn read(document: &Document, sink: &mut Sink<'_>) -> Option<Scope> {
    let mut spec = Fields::of(document.spec.clone(), "spec", sink)?;
    let description = spec.optional_text("description", sink).unwrap_or_default();
    let stages = read_stages(&mut spec, sink);
    let parameters = read_parameters(&mut spec, sink);
    let ttl = read_ttl(&mut spec, sink);
    let anchor = spec.choice(
        "anchor",
        &[
            ("cgroup_owned", AnchorKind::CgroupOwned),
            ("process", AnchorKind::Process),
            ("stream", AnchorKind::Stream),
        ],
        sink,
    );
    let approval = read_approval(&mut spec, sink);
    let leaves_behind = read_leaves_behind(&mut spec, sink);
    let limits = read_limits(&mut spec, sink);
    let words = [OnAgentLoss::Revoke, OnAgentLoss::HoldUntilDeadline].map(|word| (word.as_str(), word));
    let on_agent_loss = spec.choice("on_agent_loss", &words, sink).unwrap_or_default();
    let target = spec.required("target", sink);
    spec.finish(sink);
    let (provider, target) = read_target(target?, &parameters, sink)?;
    Some(Scope {
        name: document.key.name.clone(),
        description,
        stages,
        parameters,
        ttl,
        anchor,
        approval,
        leaves_behind,
        limits,
        on_agent_loss,
        provider,
        target,
        digest: document.digest(),
    })
}

fn read_stages(spec: &mut Fields, sink: &mut Sink<'_>) -> BTreeSet<Stage> {
    let mut stages = BTreeSet::new();
    for name in spec.texts("stages", sink) {
        match name.parse::<Stage>() {
            Ok(stage) if stage.holds_target_scopes() => {
                stages.insert(stage);
            }
            Ok(stage) => sink.fault("spec.stages", format!("stage {stage} holds no target scopes")),
            Err(problem) => sink.fault("spec.stages", problem),
        }
    }
    stages
}

fn read_ttl(spec: &mut Fields, sink: &mut Sink<'_>) -> TtlLimits {
    let Some(value) = spec.optional("ttl") else {
        return TtlLimits { default: DEFAULT_TTL, max: DEFAULT_TTL };
    };
    let Some(mut ttl) = Fields::of(value, "spec.ttl", sink) else {
        return TtlLimits { default: DEFAULT_TTL, max: DEFAULT_TTL };
    };
    let default = ttl.span("default", DEFAULT_TTL, sink);
    let max = ttl.span("max", default, sink);
    ttl.finish(sink);
    if default > max || default == Ttl::ZERO {
        sink.fault("spec.ttl.default", format!("must be above 0s and at most spec.ttl.max ({max})"));
    }
    if max > LONGEST_TTL {
        sink.fault("spec.ttl.max", format!("no scope gives more than {LONGEST_TTL}"));
    }
    TtlLimits { default, max }
}

fn read_approval(spec: &mut Fields, sink: &mut Sink<'_>) -> Option<ApprovalRule> {
    let value = spec.optional("approval")?;
    let mut fields = Fields::of(value, "spec.approval", sink)?;
    let max = fields.span("max", DEFAULT_APPROVAL, sink);
    fields.finish(sink);
    if max > LONGEST_APPROVAL || max == Ttl::ZERO {
        sink.fault("spec.approval.max", format!("must be above 0s and at most {LONGEST_APPROVAL}"));
    }
    Some(ApprovalRule { max })
}

fn read_leaves_behind(spec: &mut Fields, sink: &mut Sink<'_>) -> Vec<String> {
    const PATH: &str = "spec.leaves_behind";
    let Some(value) = spec.optional("leaves_behind") else { return Vec::new() };
    let Some(mut list) = Fields::of(serde_json::json!({ "leaves_behind": value }), "spec", sink) else {
        return Vec::new();
    };
    let words = list.texts("leaves_behind", sink);
    let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    for word in words.iter().filter(|word| !(1..=32).contains(&word.len()) || !word.bytes().all(legal)) {
        sink.fault(PATH, format!("{word:?} is no word of a-z, 0-9 and underscore, at most 32"));
    }
    if words.len() > MAX_LEFT_BEHIND || words.iter().collect::<BTreeSet<_>>().len() < words.len() {
        sink.fault(PATH, format!("expected at most {MAX_LEFT_BEHIND} different words"));
    }
    words
}

fn read_limits(spec: &mut Fields, sink: &mut Sink<'_>) -> ScopeLimits {
    let Some(value) = spec.optional("limits") else { return ScopeLimits::default() };
    let Some(mut fields) = Fields::of(value, "spec.limits", sink) else { return ScopeLimits::default() };
    let limits = ScopeLimits {
        requests_per_minute: fields.limit("requests_per_minute", sink),
        live_leases: fields.limit("live_leases", sink),
    };
    fields.finish(sink);
    limits
}

fn read_parameters(spec: &mut Fields, sink: &mut Sink<'_>) -> BTreeMap<String, ParameterSpec> {
    let Some(value) = spec.optional("parameters") else { return BTreeMap::new() };
    let Some(fields) = Fields::of(value, "spec.parameters", sink) else { return BTreeMap::new() };
    let (path, entries) = fields.into_entries();
    if entries.len() > MAX_PARAMETERS {
        sink.fault(&path, format!("a scope has at most {MAX_PARAMETERS} parameters"));
    }
    let mut parameters = BTreeMap::new();
    for (name, value) in entries {
        let path = format!("{path}.{name}");
        let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        if name.is_empty() || name.len() > 32 || !name.bytes().all(legal) {
            sink.fault(&path, "a parameter's name holds a-z, 0-9 and underscore, at most 32".to_owned());
        }
        if let Some(spec) = read_parameter(value, &path, sink) {
            parameters.insert(name, spec);
        }
    }
    parameters
}

fn read_parameter(value: Value, path: &str, sink: &mut Sink<'_>) -> Option<ParameterSpec> {
    let mut fields = Fields::of(value, path, sink)?;
    let kind = fields.text("type", sink);
    let pattern = fields.optional_text("pattern", sink);
    let kind = match kind.as_deref() {
        Some("segment") => Some(ParameterType::Segment),
        Some("path") => Some(ParameterType::Path),
        Some("enum") => {
            let values = fields.texts("values", sink);
            for value in values.iter().filter(|value| !is_enum_value(value)) {
                sink.fault(
                    &format!("{path}.values"),
                    format!("{value:?} holds a wildcard, quote, brace or `..`"),
                );
            }
            Some(ParameterType::Enum(values))
        }
        Some("int") => {
            let (min, max) = (fields.number("min", 0, sink), fields.number("max", u64::MAX, sink));
            if min > max {
                sink.fault(&format!("{path}.min"), "min is above max".to_owned());
            }
            Some(ParameterType::Int { min, max })
        }
        Some(other) => {
            sink.fault(&format!("{path}.type"), format!("{other:?} is not one of segment, path, enum, int"));
            None
        }
        None => None,
    };
    fields.finish(sink);
    let pattern = match pattern.as_deref().map(WholePattern::new) {
        None => None,
        Some(Ok(pattern)) => Some(pattern),
        Some(Err(problem)) => {
            sink.fault(&format!("{path}.pattern"), problem);
            None
        }
    };
    kind.map(|kind| ParameterSpec { kind, pattern })
}

/// Enum values may form role names and paths, so they carry no syntax of any target.
fn is_enum_value(value: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"._/:@=-".contains(&byte);
    !value.is_empty() && value.len() <= 256 && value.bytes().all(legal) && !value.contains("..")
}

fn read_target(
    value: Value,
    parameters: &BTreeMap<String, ParameterSpec>,
    sink: &mut Sink<'_>,
) -> Option<(String, Template)> {
    let found = kind_of(&value);
    let (provider, tree) = match value {
        Value::Object(map) if map.len() == 1 => map.into_iter().next().expect("the guard counted one"),
        _ => {
            let problem = format!("expected a mapping with one key, the provider's name; found {found}");
            sink.fault("spec.target", problem);
            return None;
        }
    };
    match Template::parse(tree, parameters) {
        Ok(template) => Some((provider, template)),
        Err(faults) => {
            for fault in faults {
                let dot = if fault.path.is_empty() || fault.path.starts_with('[') { "" } else { "." };
                sink.fault(&format!("spec.target.{provider}{dot}{}", fault.path), fault.problem);
            }
            None
        }
    }
}
