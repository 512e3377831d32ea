//! What is known of an expression before there is a request: whether it always has a value, whether that is text, and
//! the value itself where it is written out.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::check::ROOTS;
use crate::language::Imports;
use crate::literals;
use crate::syntax::{list, node, path_of};

/// Paths of the input below `proven`, `observed` and `claimed` that every request has.
const ALWAYS_THERE: [&str; 26] = [
    "proven",
    "proven.spiffe_id",
    "proven.trust_domain",
    "proven.stage",
    "proven.via",
    "proven.scope",
    "proven.provider",
    "proven.action",
    "proven.task",
    "proven.task.id",
    "proven.task.session",
    "proven.task.depth",
    "proven.task.opened_at",
    "proven.task.deadline",
    "proven.chain",
    "proven.now",
    "observed",
    "observed.anchor",
    "observed.attested_by",
    "observed.cgroup_id",
    "observed.boot_id",
    "claimed",
    "claimed.intent",
    "claimed.labels",
    "claimed.parameters",
    "claimed.ttl",
];
/// Those that are collections; what lies deeper in the last two is text.
const COLLECTIONS: [&str; 5] =
    ["proven.chain", "proven.task", "claimed.artifact", "claimed.labels", "claimed.parameters"];

/// What stands around an expression.
pub(crate) struct Known<'a> {
    /// The names by which its module knows references.
    pub(crate) imports: &'a Imports<'a>,
    /// Names that its body binds.
    pub(crate) locals: &'a BTreeSet<String>,
}

impl Known<'_> {
    /// Whether it has a value wherever it stands: a constant, a name of the body, or what every request has.
    pub(crate) fn is_settled(&self, expression: &Value) -> bool {
        match node(expression) {
            Some(("String" | "RawString" | "Number" | "Bool" | "Null", _)) => true,
            Some(("UnaryExpr", body)) => self.is_settled(&body["expr"]),
            Some(("Array" | "Set", body)) => list(&body["items"]).iter().all(|item| self.is_settled(item)),
            Some(("Object", body)) => list(&body["fields"]).iter().all(|field| self.is_settled(&field[2])),
            Some(("Var", body)) if body["value"].as_str().is_some_and(|name| self.locals.contains(name)) => {
                true
            }
            Some(("Var" | "RefDot" | "RefBrack", _)) => {
                self.of_input(expression).is_some_and(|path| ALWAYS_THERE.contains(&path.as_str()))
            }
            _ => false,
        }
    }

    /// Whether its value is text.
    pub(crate) fn is_text(&self, expression: &Value) -> bool {
        match node(expression) {
            Some(("String" | "RawString", _)) => true,
            Some(("Call", body)) => literal_name(body).is_some_and(|name| literals::gives_text(&name)),
            Some(("Var" | "RefDot" | "RefBrack", _)) => self
                .of_input(expression)
                .is_some_and(|path| !ROOTS.contains(&path.as_str()) && !COLLECTIONS.contains(&path.as_str())),
            _ => false,
        }
    }

    /// The path below `input`, with imports written out. A segment that is known only when it runs is a star.
    fn of_input(&self, reference: &Value) -> Option<String> {
        let mut path: Vec<String> =
            path_of(reference).into_iter().map(|segment| segment.unwrap_or_else(|| "*".to_owned())).collect();
        let first = path.first()?;
        if self.locals.contains(first) {
            return None;
        }
        if let Some((_, full)) = self.imports.references.iter().find(|(alias, _)| alias == first) {
            path.splice(..1, full.iter().cloned());
        }
        (path.len() > 1 && path[0] == "input").then(|| path[1..].join("."))
    }
}

/// The name of the function that a call names.
pub(crate) fn literal_name(call: &Value) -> Option<String> {
    Some(path_of(&call["fcn"]).into_iter().collect::<Option<Vec<_>>>()?.join("."))
}

/// Whether an expression and all it holds are written out.
pub(crate) fn is_constant(expression: &Value) -> bool {
    match node(expression) {
        Some(("Array" | "Set", body)) => list(&body["items"]).iter().all(is_constant),
        _ => constant(expression).is_some(),
    }
}

/// The value of a text, a number, a flag or null that is written out.
pub(crate) fn constant(expression: &Value) -> Option<Value> {
    match node(expression)? {
        ("String" | "RawString" | "Number" | "Bool", body) => Some(body["value"].clone()),
        ("Null", _) => Some(Value::Null),
        _ => None,
    }
}
