//! A module's text as the machine is given it.
//!
//! The engine's compiler for its machine errs in two ways that a longer text makes up for. It goes on where the right side
//! of `x := …` is undefined: `x == x` behind it stops it there, as Rego has it. It keeps `input` where a definition first
//! reads it, though that may stand in a loop that is never entered: so each definition begins by reading it.
//!
//! Both are statements that always hold in Rego. That nothing else came of it is seen from the syntax tree of the result.

use regorus::Engine;
use serde_json::{Map, Value};

use crate::syntax::{lengths_guarded, list, node, tree};

/// The text for the machine, of a module and its syntax tree.
pub(crate) fn guarded(file: &str, text: &str, read: &Value) -> Result<String, String> {
    let mut additions = Vec::new();
    for rule in list(&read["rules"]) {
        definition(rule, text, &mut additions);
    }
    assignments(read, text, &mut additions);
    additions.sort();
    let mut guarded = String::with_capacity(text.len() * 2);
    let mut from = 0;
    for Addition { at, text: added, .. } in additions {
        guarded.push_str(text.get(from..at).ok_or("the engine's places are not in its text")?);
        guarded.push_str(&added);
        from = at;
    }
    guarded.push_str(text.get(from..).unwrap_or_default());

    let mut engine = Engine::new();
    engine.set_policy_length_config(lengths_guarded());
    let again = engine.add_policy(file.to_owned(), guarded.clone()).map_err(|error| error.to_string());
    let again = again.and_then(|_| tree(&mut engine).map_err(|(_, problem)| problem))?;
    if essence(&again) == essence(read) {
        Ok(guarded)
    } else {
        Err("it would mean something else".to_owned())
    }
}

/// A text that is put in, in the order of the places; at one place first what ends something.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Addition {
    at: usize,
    order: u8,
    text: String,
}

fn add(at: Option<usize>, order: u8, text: &str, additions: &mut Vec<Addition>) {
    additions.extend(at.map(|at| Addition { at, order, text: text.to_owned() }));
}

fn definition(rule: &Value, text: &str, additions: &mut Vec<Addition>) {
    let Some(("Spec", rule)) = node(rule) else { return };
    let bodies = list(&rule["bodies"]);
    if bodies.is_empty() {
        add(end(rule, text), 1, " if { input }", additions);
    }
    for body in bodies {
        let query = &body["query"];
        let Some(first) = list(&query["stmts"]).first() else { continue };
        if start(query).and_then(|at| text.get(at..)).is_some_and(|text| text.starts_with('{')) {
            add(start(first), 2, "input; ", additions);
        } else {
            add(start(query), 2, "{ input; ", additions);
            add(end(query, text), 1, " }", additions);
        }
    }
}

fn assignments(part: &Value, text: &str, additions: &mut Vec<Addition>) {
    match part {
        Value::Array(items) => items.iter().for_each(|item| assignments(item, text, additions)),
        Value::Object(map) => {
            let assignment = &part["literal"]["Expr"]["expr"]["AssignExpr"];
            if !assignment.is_null() {
                for name in names(&assignment["lhs"]) {
                    add(end(part, text), 0, &format!("; {name} == {name}"), additions);
                }
            }
            map.values().for_each(|inner| assignments(inner, text, additions));
        }
        _ => {}
    }
}

/// The names that an assignment binds.
fn names(left: &Value) -> Vec<&str> {
    match node(left) {
        Some(("Var", body)) => body["value"].as_str().into_iter().filter(|name| *name != "_").collect(),
        Some(("Array", body)) => list(&body["items"]).iter().flat_map(names).collect(),
        _ => Vec::new(),
    }
}

fn start(part: &Value) -> Option<usize> {
    part["span"]["start"].as_u64().and_then(|at| usize::try_from(at).ok())
}

/// Where a part of the text ends. The engine leaves out the quote at the end of a text.
fn end(part: &Value, text: &str) -> Option<usize> {
    let end = part["span"]["end"].as_u64().and_then(|at| usize::try_from(at).ok())?;
    Some(end + usize::from(text.get(end..)?.starts_with(['"', '`'])))
}

/// What is left of a syntax tree without places, and without statements of the kinds that are put in.
fn essence(part: &Value) -> Value {
    match part {
        Value::Array(items) => items.iter().map(essence).collect(),
        Value::Object(map) if map.contains_key("line") && map.contains_key("col") => Value::Null,
        Value::Object(map) => map
            .iter()
            .filter(|(key, _)| {
                !["span", "eidx", "sidx", "qidx"].contains(&key.as_str()) && !key.starts_with("num_")
            })
            .map(|(key, value)| {
                let left = match key.as_str() {
                    "stmts" => {
                        list(value).iter().filter(|statement| !always_holds(statement)).map(essence).collect()
                    }
                    "bodies" if list(value).iter().all(is_empty) => Value::Array(Vec::new()),
                    _ => essence(value),
                };
                (key.clone(), left)
            })
            .collect::<Map<_, _>>()
            .into(),
        _ => part.clone(),
    }
}

/// `input`, and `x == x`.
fn always_holds(statement: &Value) -> bool {
    let name = |expression: &Value| match node(expression) {
        Some(("Var", body)) => body["value"].as_str().map(str::to_owned),
        _ => None,
    };
    let expression = &statement["literal"]["Expr"]["expr"];
    match node(expression) {
        Some(("Var", _)) => name(expression).as_deref() == Some("input"),
        Some(("BoolExpr", body)) => {
            body["op"] == "Eq" && name(&body["lhs"]).is_some() && name(&body["lhs"]) == name(&body["rhs"])
        }
        _ => false,
    }
}

fn is_empty(body: &Value) -> bool {
    body["is_else"] == false
        && body["assign"].is_null()
        && list(&body["query"]["stmts"]).iter().all(always_holds)
}
