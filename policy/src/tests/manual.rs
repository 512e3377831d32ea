//! The pages of `docs/` that describe policies.

use std::collections::BTreeSet;

use dayfly_domain::policy::{MAX_MODULE, MAX_MODULES, MAX_POLICY};
use serde_json::{Value, json};

use super::*;
use crate::answer::*;
use crate::{ALLOWED_BUILTINS, MAX_INSTRUCTIONS, TIME_LIMIT, check, input, shape};

#[test]
fn the_input_is_built_as_it_is_serialised() {
    let mut request = Request::default();
    for artifact in [None, Some((Some("sha256:00".to_owned()), "models/a")), Some((None, "tools/b"))] {
        request.artifact = artifact.map(|(digest, name)| Artifact { name: name.to_owned(), digest });
        request.node = request.artifact.as_ref().map(|_| id("node/n2"));
        let input = request.input();
        let built = serde_json::to_value(input::value(&input)).expect("JSON");
        assert_eq!(built, serde_json::to_value(&input).expect("JSON"));
    }
}

/// Every path of a schema: `proven.chain[].stage`, and `*` for a key that is free.
fn described(
    schema: &Value,
    whole: &Value,
    path: &str,
    required: bool,
    found: &mut BTreeSet<(String, bool)>,
) {
    let schema = match schema["$ref"].as_str().and_then(|name| name.strip_prefix('#')) {
        Some(pointer) => whole.pointer(pointer).expect("a definition"),
        None => schema,
    };
    found.insert((path.to_owned(), required));
    for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
        let dot = if path.is_empty() { "" } else { "." };
        let must = schema["required"].as_array().is_some_and(|names| names.contains(&json!(name)));
        described(inner, whole, &format!("{path}{dot}{name}"), required && must, found);
    }
    if schema["items"].is_object() {
        described(&schema["items"], whole, &format!("{path}[]"), required, found);
    }
    if schema["additionalProperties"].is_object() {
        described(&schema["additionalProperties"], whole, &format!("{path}.*"), required, found);
    }
    if schema["type"] == "object" && !schema["additionalProperties"].is_object() {
        assert_eq!(schema["additionalProperties"], false, "{path}: other keys are not ruled out");
    }
}

/// Every path of a value; `texts` names the mappings whose keys are free.
fn held(value: &Value, path: &str, texts: &[&str], found: &mut BTreeSet<String>) {
    found.insert(path.to_owned());
    match value {
        Value::Object(map) => {
            for (name, inner) in map {
                let name = if texts.contains(&path) { "*" } else { name };
                let dot = if path.is_empty() { "" } else { "." };
                held(inner, &format!("{path}{dot}{name}"), texts, found);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| held(item, &format!("{path}[]"), texts, found)),
        _ => {}
    }
}

#[test]
fn the_schema_describes_every_field_of_the_input_and_no_other() {
    let schema: Value =
        serde_json::from_str(include_str!("../../../docs/policy-input.schema.json")).expect("JSON");
    let mut all = BTreeSet::new();
    described(&schema, &schema, "", true, &mut all);
    let paths = |request: &Request| {
        let mut found = BTreeSet::new();
        let value = serde_json::to_value(request.input()).expect("JSON");
        held(&value, "", &["claimed.labels", "claimed.parameters"], &mut found);
        found
    };
    let artifact = Some(Artifact { name: "models/a".to_owned(), digest: Some("sha256:00".to_owned()) });
    let fullest = paths(&Request { artifact, ..Request::default() });
    assert_eq!(fullest, all.iter().map(|(path, _)| path.clone()).collect());
    let least = paths(&Request { node: None, ..Request::default() });
    assert_eq!(least, all.into_iter().filter(|(_, required)| *required).map(|(path, _)| path).collect());
    let stages: Vec<&str> = Stage::ALL.iter().map(|stage| stage.as_str()).collect();
    assert_eq!(schema["$defs"]["stage"]["enum"], json!(stages));
}

const PAGE: &str = include_str!("../../../docs/policy.md");

#[test]
fn the_page_lists_every_limit_and_every_function() {
    let rows = [
        ("one module", format!("{MAX_MODULE} bytes")),
        ("modules of one policy, tests included", MAX_MODULES.to_string()),
        ("all modules of one policy", format!("{MAX_POLICY} bytes")),
        ("brackets around one place", shape::MAX_BRACKETS.to_string()),
        ("operators, references and calls chained in one expression", shape::MAX_CHAIN.to_string()),
        ("rules that rest on each other", check::MAX_CHAIN.to_string()),
        ("one live decision", format!("{MAX_INSTRUCTIONS} instructions")),
        ("one rule of an explanation, one test", format!("{} ms", TIME_LIMIT.as_millis())),
        ("reasons", MAX_REASONS.to_string()),
        ("one reason", format!("{MAX_REASON} bytes")),
        ("deny statements", MAX_DENY_STATEMENTS.to_string()),
        ("deny statements as JSON, of all policies together", format!("{MAX_STATEMENT_BYTES} bytes")),
        ("tags, of all policies together", MAX_TAGS.to_string()),
        ("key of a tag", format!("{MAX_TAG_KEY} characters")),
        ("value of a tag", format!("{MAX_TAG_VALUE} characters")),
    ];
    let expected: Vec<String> = rows.iter().map(|(what, limit)| format!("| {what} | {limit} |")).collect();
    let (_, table) = PAGE.split_once("## Limits").expect("a heading");
    let told: Vec<&str> =
        table.lines().filter(|line| line.starts_with("| ") && *line != "| what | limit |").collect();
    assert_eq!(told, expected);
    let (_, functions) = PAGE.split_once("### Functions").expect("a heading");
    let (functions, _) = functions.split_once("\n\nPatterns").expect("what follows the list");
    let told: Vec<&str> = functions.split_whitespace().map(|name| name.trim_matches('`')).collect();
    assert_eq!(told, ALLOWED_BUILTINS);
}
