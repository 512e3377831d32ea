//! Templates are JSON trees, not text. A parameter `{name}` stands only inside a string leaf, closed by `/` or the end.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use thiserror::Error;

use crate::parameter::{ParameterSpec, ParameterType, Parameters};

/// Deepest nesting of a template.
const MAX_DEPTH: usize = 16;

/// A fault in a template, with where it stands (`spec.target.aws.session_policy.Statement[0].Resource`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateFault {
    /// Path within the tree; empty for the root.
    pub path: String,
    /// What is wrong.
    pub problem: String,
}

/// A JSON tree whose string leaves may hold parameters.
#[derive(Clone, Debug, PartialEq)]
pub struct Template {
    tree: Value,
}

/// A rendered tree is not the template with values in its leaves. Nothing may be issued with it.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("rendering changed the shape of the template at {path:?}; nothing was issued")]
pub struct ShapeChanged {
    /// Where the two trees part.
    pub path: String,
}

impl Template {
    /// Checks the tree against the parameters it may use and tells every fault.
    pub fn parse(tree: Value, specs: &BTreeMap<String, ParameterSpec>) -> Result<Self, Vec<TemplateFault>> {
        let mut faults = Vec::new();
        check_node(&tree, String::new(), 0, specs, &mut faults);
        if faults.is_empty() { Ok(Self { tree }) } else { Err(faults) }
    }

    /// The tree as written, parameters and all.
    pub fn tree(&self) -> &Value {
        &self.tree
    }

    /// Every string leaf, with its path.
    pub fn leaves(&self) -> Vec<(String, &str)> {
        let mut leaves = Vec::new();
        collect_leaves(&self.tree, String::new(), &mut leaves);
        leaves
    }

    /// Names of the parameters that stand in the leaf or branch at a key of the root.
    pub fn parameters_under(&self, key: &str) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        if let Some(node) = self.tree.get(key) {
            collect_names(node, &mut names);
        }
        names
    }

    /// Puts checked values into the leaves, then compares the result with the template node by node.
    pub fn render(&self, values: &Parameters) -> Result<Value, ShapeChanged> {
        let rendered = render_node(&self.tree, values);
        same_shape(&self.tree, &rendered, String::new())?;
        Ok(rendered)
    }
}

/// A piece of a string leaf.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece<'a> {
    /// As it stands.
    Text(&'a str),
    /// Name of the parameter whose value comes here.
    Parameter(&'a str),
}

/// Splits a leaf into text and parameters. `${…}` is the target's own syntax and stays text.
pub(crate) fn pieces(leaf: &str) -> Result<Vec<Piece<'_>>, String> {
    let mut found = Vec::new();
    let mut text_from = 0;
    let mut at = 0;
    let bytes = leaf.as_bytes();
    while at < bytes.len() {
        match bytes[at] {
            b'$' if bytes.get(at + 1) == Some(&b'{') => {
                let close = leaf[at..].find('}').ok_or("`${` is not closed")?;
                at += close + 1;
            }
            b'{' => {
                let close = leaf[at..].find('}').ok_or("`{` is not closed")?;
                found.push(Piece::Text(&leaf[text_from..at]));
                found.push(Piece::Parameter(&leaf[at + 1..at + close]));
                at += close + 1;
                text_from = at;
            }
            b'}' => return Err("`}` without `{`".to_owned()),
            _ => at += 1,
        }
    }
    found.push(Piece::Text(&leaf[text_from..]));
    Ok(found)
}

fn check_node(
    node: &Value,
    path: String,
    depth: usize,
    specs: &BTreeMap<String, ParameterSpec>,
    faults: &mut Vec<TemplateFault>,
) {
    if depth > MAX_DEPTH {
        faults.push(TemplateFault { path, problem: format!("a template nests at most {MAX_DEPTH} levels") });
        return;
    }
    match node {
        Value::String(leaf) => {
            if let Err(problem) = check_leaf(leaf, specs) {
                faults.push(TemplateFault { path, problem });
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                check_node(item, format!("{path}[{index}]"), depth + 1, specs, faults);
            }
        }
        Value::Object(fields) => {
            for (key, value) in fields {
                let path = join(&path, key);
                if key.contains(['{', '}']) && !key.contains("${") {
                    let problem = "a parameter may stand in a value, not in a key".to_owned();
                    faults.push(TemplateFault { path: path.clone(), problem });
                }
                check_node(value, path, depth + 1, specs, faults);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn check_leaf(leaf: &str, specs: &BTreeMap<String, ParameterSpec>) -> Result<(), String> {
    let pieces = pieces(leaf)?;
    for pair in pieces.windows(2) {
        let [Piece::Parameter(name), Piece::Text(after)] = pair else { continue };
        let spec = specs
            .get(*name)
            .ok_or_else(|| format!("parameter {name:?} is not declared in spec.parameters"))?;
        let last = std::ptr::eq(pair.as_ptr_range().end, pieces.as_ptr_range().end);
        let closed = after.starts_with('/') || (after.is_empty() && last);
        // `corpus-7` followed by anything else could grow into `corpus-70`. An enum lists its values, so it cannot.
        let listed = matches!(spec.kind, ParameterType::Enum(_)) && !after.starts_with(['*', '?', '+']);
        if !closed && !listed {
            return Err(format!("parameter {name:?} must be closed by `/` or the end of the text"));
        }
    }
    Ok(())
}

fn collect_leaves<'a>(node: &'a Value, path: String, leaves: &mut Vec<(String, &'a str)>) {
    match node {
        Value::String(leaf) => leaves.push((path, leaf)),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .for_each(|(index, item)| collect_leaves(item, format!("{path}[{index}]"), leaves)),
        Value::Object(fields) => {
            fields.iter().for_each(|(key, value)| collect_leaves(value, join(&path, key), leaves))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn collect_names(node: &Value, names: &mut BTreeSet<String>) {
    match node {
        Value::String(leaf) => {
            names.extend(pieces(leaf).into_iter().flatten().filter_map(|piece| match piece {
                Piece::Parameter(name) => Some(name.to_owned()),
                Piece::Text(_) => None,
            }))
        }
        Value::Array(items) => items.iter().for_each(|item| collect_names(item, names)),
        Value::Object(fields) => fields.values().for_each(|value| collect_names(value, names)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn render_node(node: &Value, values: &Parameters) -> Value {
    match node {
        Value::String(leaf) => Value::String(render_leaf(leaf, values)),
        Value::Array(items) => Value::Array(items.iter().map(|item| render_node(item, values)).collect()),
        Value::Object(fields) => Value::Object(
            fields.iter().map(|(key, value)| (key.clone(), render_node(value, values))).collect(),
        ),
        Value::Null | Value::Bool(_) | Value::Number(_) => node.clone(),
    }
}

fn render_leaf(leaf: &str, values: &Parameters) -> String {
    let pieces = pieces(leaf).expect("leaves were checked when the template was parsed");
    let value_of = |piece| match piece {
        Piece::Text(text) => text,
        // A missing value renders as nothing; same_shape then refuses the tree.
        Piece::Parameter(name) => values.get(name).map_or("", String::as_str),
    };
    pieces.into_iter().map(value_of).collect()
}

/// Checks that a rendered tree has the template's keys, order and kinds, its text between the parameters, and in the
/// place of each parameter a value without wildcards, variables or traversal.
fn same_shape(template: &Value, rendered: &Value, path: String) -> Result<(), ShapeChanged> {
    let agree = match (template, rendered) {
        (Value::String(leaf), Value::String(text)) => leaf_agrees(leaf, text),
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (index, (a, b)) in a.iter().zip(b).enumerate() {
                same_shape(a, b, format!("{path}[{index}]"))?;
            }
            true
        }
        (Value::Object(a), Value::Object(b)) if a.keys().eq(b.keys()) => {
            for ((key, a), b) in a.iter().zip(b.values()) {
                same_shape(a, b, join(&path, key))?;
            }
            true
        }
        (a, b) => a == b,
    };
    if agree { Ok(()) } else { Err(ShapeChanged { path }) }
}

fn leaf_agrees(leaf: &str, text: &str) -> bool {
    let Ok(pieces) = pieces(leaf) else { return false };
    let wildcards = |text: &str| text.bytes().filter(|byte| b"*?+${}\"\\".contains(byte)).count();
    let literal: String =
        pieces.iter().filter_map(|p| if let Piece::Text(t) = p { Some(*t) } else { None }).collect();
    let mut rest = text;
    for piece in &pieces {
        match piece {
            Piece::Text(literal) => match rest.find(literal) {
                Some(at) => rest = &rest[at + literal.len()..],
                None => return false,
            },
            // Each parameter must have given at least one character.
            Piece::Parameter(_) => match rest.char_indices().nth(1) {
                Some((next, _)) => rest = &rest[next..],
                None if rest.is_empty() => return false,
                None => rest = "",
            },
        }
    }
    wildcards(text) == wildcards(&literal) && text.matches("..").count() == literal.matches("..").count()
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::parameter;

    fn specs() -> BTreeMap<String, ParameterSpec> {
        let segment = ParameterSpec { kind: ParameterType::Segment, pattern: None };
        let path = ParameterSpec { kind: ParameterType::Path, pattern: None };
        BTreeMap::from([("dataset".to_owned(), segment), ("prefix".to_owned(), path)])
    }

    fn policy() -> Value {
        json!({"Version": "2012-10-17", "Statement": [
            {"Effect": "Allow", "Action": ["s3:GetObject"], "Resource": "arn:aws:s3:::train/{dataset}/*"},
            {"Effect": "Allow", "Action": ["s3:ListBucket"], "Resource": "arn:aws:s3:::train",
             "Condition": {"StringLike": {"s3:prefix": ["{dataset}/{prefix}", "home/${aws:username}/*"]}}},
        ]})
    }

    #[test]
    fn an_unclosed_parameter_is_refused_with_its_path() {
        for leaf in [
            "{dataset}*",
            "{dataset}-x",
            "{dataset}{prefix}",
            "{nobody}/",
            "{dataset",
            "dataset}",
            "{dataset}?",
        ] {
            let faults = Template::parse(json!({"a": [leaf]}), &specs()).expect_err(leaf);
            assert_eq!(faults[0].path, "a[0]", "{leaf}");
        }
        assert!(Template::parse(json!({"{dataset}": 1}), &specs()).is_err());
    }

    #[test]
    fn values_land_in_their_leaves() {
        let template = Template::parse(policy(), &specs()).expect("a template");
        let values =
            Parameters::from([("dataset".into(), "corpus-7".into()), ("prefix".into(), "a/b".into())]);
        let rendered = template.render(&values).expect("same shape");
        assert_eq!(rendered["Statement"][0]["Resource"], "arn:aws:s3:::train/corpus-7/*");
        assert_eq!(rendered["Statement"][1]["Condition"]["StringLike"]["s3:prefix"][0], "corpus-7/a/b");
        assert_eq!(
            rendered["Statement"][1]["Condition"]["StringLike"]["s3:prefix"][1],
            "home/${aws:username}/*"
        );
    }

    #[test]
    fn a_missing_value_renders_nothing_usable() {
        let template = Template::parse(policy(), &specs()).expect("a template");
        assert!(template.render(&Parameters::new()).is_err());
    }

    proptest! {
        #[test]
        fn no_value_changes_statements_actions_or_wildcards(dataset in ".{0,80}", prefix in "[a-zA-Z0-9./*?$\\{\\}\"-]{0,40}") {
            let template = Template::parse(policy(), &specs()).expect("a template");
            let values = Parameters::from([("dataset".into(), dataset), ("prefix".into(), prefix)]);
            let taken = parameter::check(&specs(), &values).is_ok();
            let rendered = template.render(&values);
            // What the types take always renders.
            prop_assert!(!taken || rendered.is_ok());
            if let Ok(tree) = rendered {
                let stars = |value: &Value| value.to_string().matches('*').count();
                prop_assert_eq!(stars(&tree), stars(template.tree()));
                prop_assert_eq!(&tree["Statement"][0]["Action"], &template.tree()["Statement"][0]["Action"]);
                prop_assert_eq!(tree["Statement"].as_array().map(Vec::len), Some(2));
            }
        }
    }
}
