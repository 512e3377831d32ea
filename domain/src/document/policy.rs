//! `kind: Policy`: Rego modules that may deny or narrow. Here they are checked for form; loading them is for who judges.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::Document;
use super::fields::{Fields, Sink, kind_of};
use crate::policy::{MAX_MODULE, MAX_MODULES, MAX_POLICY, PolicySource};

pub(super) fn read(document: &Document, sink: &mut Sink<'_>) -> Option<PolicySource> {
    let mut spec = Fields::of(document.spec.clone(), "spec", sink)?;
    let scopes = match spec.has("scopes") {
        true => Some(spec.texts("scopes", sink).into_iter().collect::<BTreeSet<_>>()),
        false => None,
    };
    let modules = spec.required("modules", sink);
    spec.finish(sink);
    let name = document.key.name.clone();
    if !is_package_name(&name) {
        let problem = "a policy's name is a Rego package too: a-z first, then a-z, 0-9 and dash";
        sink.fault("metadata.name", problem.to_owned());
    }
    let modules = read_modules(modules?, sink)?;
    Some(PolicySource { name, scopes, modules, digest: document.digest() })
}

fn read_modules(value: Value, sink: &mut Sink<'_>) -> Option<BTreeMap<String, String>> {
    let (path, entries) = Fields::of(value, "spec.modules", sink)?.into_entries();
    if entries.len() > MAX_MODULES {
        sink.fault(&path, format!("has {} modules; at most {MAX_MODULES} are taken", entries.len()));
        return None;
    }
    let mut modules = BTreeMap::new();
    for (file, value) in entries {
        let at = format!("{path}.{file}");
        match value {
            _ if !is_file_name(&file) => {
                let problem =
                    "a file name holds a-z, 0-9, dot, dash and _, ends in .rego, and has at most 64";
                sink.fault(&at, problem.to_owned());
            }
            Value::String(text) if text.len() > MAX_MODULE => {
                sink.fault(&at, format!("has {} bytes; at most {MAX_MODULE} are taken", text.len()));
            }
            Value::String(text) => {
                modules.insert(file, text);
            }
            other => sink.fault(&at, format!("expected Rego as text, found {}", kind_of(&other))),
        }
    }
    let bytes: usize = modules.values().map(String::len).sum();
    if bytes > MAX_POLICY {
        sink.fault(&path, format!("has {bytes} bytes in all; at most {MAX_POLICY} are taken"));
        return None;
    }
    if modules.keys().all(|file| PolicySource::is_test(file)) {
        sink.fault(&path, "has no module with rules".to_owned());
        return None;
    }
    Some(modules)
}

fn is_package_name(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_lowercase()) && !name.contains('.')
}

fn is_file_name(file: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
    file.len() <= 64 && file.ends_with(".rego") && !file.starts_with(['.', '-']) && file.bytes().all(legal)
}
