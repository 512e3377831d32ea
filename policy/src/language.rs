//! The part of Rego that policies are written in: where the machine, the interpreter and OPA mean the same.
//!
//! Outside it they differ, and a team that tried its policy with `opa test` would not have tried what decides. What is
//! refused here was found by asking all three; `tests/oracle.rs` asks them again, of policies made at random.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::builtins::ALLOWED;
use crate::known::{Known, constant, is_constant};
use crate::literals;
use crate::syntax::{list, literal, node, path_of, place};

/// Whole numbers up to this are exact as floating point too.
const MAX_WHOLE: u64 = 1 << 53;

type Place = (u32, u32);

/// What a definition yields, as far as its text tells.
#[derive(Debug, PartialEq)]
pub(crate) enum Yields {
    /// This, whenever it holds.
    Constant(Value),
    /// What depends on the input.
    Computed,
    /// An `else` goes on where its body does not hold.
    Chain,
    /// One more member of a set.
    Member,
}

/// What one definition holds that has no one meaning, and what it yields.
pub(crate) fn check(rule: &Value, text: &str, imports: &Imports<'_>) -> (Vec<(Place, String)>, Yields) {
    let mut walk = Walk { imports, text, faults: Vec::new(), locals: BTreeSet::new() };
    let yields = walk.rule(rule);
    (walk.faults, yields)
}

/// The names by which a module knows references.
pub(crate) struct Imports<'a> {
    /// Alias, and what it stands for.
    pub(crate) references: Vec<(&'a str, &'a [String])>,
    /// Whether the module says `import future.keywords.not`.
    pub(crate) new_not: bool,
}

struct Walk<'a> {
    imports: &'a Imports<'a>,
    /// The module.
    text: &'a str,
    faults: Vec<(Place, String)>,
    /// Names that a body binds, in it and around it.
    locals: BTreeSet<String>,
}

/// Where an expression stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    /// It is a statement, or what `not` stands before: undefined and false are one.
    Condition,
    /// Its value is used.
    Value,
}

impl Walk<'_> {
    fn known(&self) -> Known<'_> {
        Known { imports: self.imports, locals: &self.locals }
    }

    fn fault(&mut self, at: &Value, problem: impl Into<String>) {
        let at = node(at).map_or(at, |(_, body)| body);
        self.faults.push((place(&at["span"], self.text), problem.into()));
    }

    fn rule(&mut self, rule: &Value) -> Yields {
        let Some((kind, body)) = node(rule) else { return Yields::Computed };
        if kind == "Default" {
            if !list(&body["args"]).is_empty() {
                self.fault(rule, "a function has no default here: end it with else");
            }
            self.name(&body["refr"]);
            self.expression(&body["value"], At::Value);
            return Yields::Computed;
        }
        let Some((form, head)) = node(&body["head"]) else { return Yields::Computed };
        self.name(&head["refr"]);
        for argument in list(&head["args"]) {
            match node(argument) {
                Some(("Var", argument)) => self.bind(argument),
                _ => self.fault(argument, "a function takes names, no patterns: compare in its body"),
            }
        }
        let bodies = list(&body["bodies"]);
        let chained = bodies.iter().any(|body| body["is_else"] == true);
        let value = &head["assign"]["value"];
        if bodies.is_empty() {
            self.expression(value, At::Value);
        }
        for (number, body) in bodies.iter().enumerate() {
            let outside = self.locals.clone();
            let statements = list(&body["query"]["stmts"]);
            self.query(statements, false);
            let values = [if number == 0 { value } else { &Value::Null }, &body["assign"]["value"]];
            for value in values.into_iter().filter(|value| !value.is_null()) {
                self.expression(value, At::Value);
                if chained && !self.known().is_settled(value) {
                    self.fault(value, "beside an else stands a constant or a name: x := … in the body");
                }
                let choices = statements.iter().any(|statement| is(statement, "SomeIn"));
                if choices && constant(value).is_none() {
                    self.fault(
                        value,
                        "some … in may choose several values: collect them with contains or a comprehension",
                    );
                }
            }
            if form == "Set" {
                self.expression(&head["key"], At::Value);
            }
            self.locals = outside;
        }
        if form == "Set" && bodies.is_empty() {
            self.expression(&head["key"], At::Value);
        }
        match constant(value) {
            _ if form == "Set" => Yields::Member,
            _ if chained => Yields::Chain,
            _ if value.is_null() => Yields::Constant(Value::Bool(true)),
            Some(value) => Yields::Constant(value),
            None => Yields::Computed,
        }
    }

    /// The head of a definition is one name.
    fn name(&mut self, reference: &Value) {
        match path_of(reference).as_slice() {
            [Some(name)] if ALLOWED.contains(&name.as_str()) => {
                self.fault(reference, format!("{name} is a built-in function; give the rule another name"));
            }
            [Some(_)] => {}
            _ => self
                .fault(reference, "a rule has one name, without dots and brackets; an object is written out"),
        }
    }

    fn text_of(&self, span: &Value) -> Option<&str> {
        let at = |key: &str| span[key].as_u64().and_then(|at| usize::try_from(at).ok());
        self.text.get(at("start")?..at("end")?)
    }

    fn bind(&mut self, variable: &Value) {
        let name = variable["value"].as_str().filter(|name| *name != "_");
        self.locals.extend(name.map(str::to_owned));
    }

    /// The statements of one body. Names bound in it are known in all of it.
    fn query(&mut self, statements: &[Value], comprehension: bool) {
        let own = bound(statements);
        if comprehension {
            self.begins_with_a_loop(statements, &own);
        }
        self.locals.extend(own);
        for statement in statements {
            let Some((kind, body)) = node(&statement["literal"]) else { continue };
            match kind {
                "Expr" => self.statement(&body["expr"]),
                "NotExpr" => {
                    let negated = &body["expr"];
                    let plain = matches!(node(negated), Some(("Var" | "RefDot" | "RefBrack", _)));
                    if !plain && !self.imports.new_not {
                        let problem = "not with more than a name needs `import future.keywords.not`: without it, what \
                                       is undefined within makes OPA take the whole body for undefined";
                        self.fault(statement, problem);
                    }
                    self.expression(negated, At::Condition);
                }
                "SomeIn" => {
                    for pattern in [&body["key"], &body["value"]] {
                        if !pattern.is_null() && node(pattern).is_none_or(|(kind, _)| kind != "Var") {
                            self.fault(pattern, "some … in takes names, no patterns: compare after it");
                        }
                    }
                    self.collection(&body["collection"]);
                }
                "Every" => {
                    self.collection(&body["domain"]);
                    let outside = self.locals.clone();
                    for span in [&body["key"], &body["value"]] {
                        self.locals.extend(self.text_of(span).map(str::to_owned));
                    }
                    self.query(list(&body["query"]["stmts"]), false);
                    self.locals = outside;
                }
                _ => self.fault(statement, "say some … in, with the collection that is gone through"),
            }
        }
    }

    fn collection(&mut self, collection: &Value) {
        if self.known().is_text(collection) {
            self.fault(collection, "a text has no members: split it");
        }
        self.written_out(collection);
        self.expression(collection, At::Value);
    }

    /// OPA 1.22 looks members up by an index that knows constants alone, and does not sort a set that is made on the spot.
    fn written_out(&mut self, collection: &Value) {
        if matches!(node(collection), Some(("Array" | "Set", _))) && !is_constant(collection) {
            self.fault(
                collection,
                "a collection that is written out behind in holds constants: x := {…} before it",
            );
        }
    }

    /// The machine leaves a loop around a comprehension when a condition fails before the comprehension's own loop.
    fn begins_with_a_loop(&mut self, statements: &[Value], own: &BTreeSet<String>) {
        let Some(first) = statements.first() else { return };
        let some = &first["literal"]["SomeIn"];
        if some.is_null() {
            self.fault(first, "a comprehension begins with some … in");
        } else if names(&some["collection"]).iter().any(|name| own.contains(*name)) {
            self.fault(first, "name what is gone through before the comprehension");
        }
    }

    fn statement(&mut self, expression: &Value) {
        let Some(("AssignExpr", body)) = node(expression) else {
            return self.expression(expression, At::Condition);
        };
        if body["op"] != "ColEq" {
            self.fault(expression, "say := to name a value and == to compare");
        }
        let is_name = |value: &Value| node(value).is_some_and(|(kind, _)| kind == "Var");
        let left = &body["lhs"];
        if !is_name(left)
            && !matches!(node(left), Some(("Array", array)) if list(&array["items"]).iter().all(is_name))
        {
            self.fault(left, "name one value, or each of a list");
        }
        self.expression(&body["rhs"], At::Value);
    }

    fn expression(&mut self, expression: &Value, at: At) {
        let Some((kind, body)) = node(expression) else { return };
        match kind {
            "Number" if body["value"].as_i64().is_none_or(|number| number.unsigned_abs() > MAX_WHOLE) => {
                self.fault(expression, "numbers are whole, and at most 2^53");
            }
            "UnaryExpr" => self.expression(&body["expr"], At::Value),
            "Array" | "Set" => list(&body["items"]).iter().for_each(|item| self.expression(item, At::Value)),
            "Object" => self.object(body),
            "ArrayCompr" | "SetCompr" => {
                let outside = self.locals.clone();
                self.query(list(&body["query"]["stmts"]), true);
                self.expression(&body["term"], At::Value);
                if kind == "ArrayCompr" && !self.known().is_settled(&body["term"]) {
                    self.fault(
                        &body["term"],
                        "a list is made of names and constants: x := … in the comprehension",
                    );
                }
                self.locals = outside;
            }
            "ObjectCompr" => {
                self.fault(expression, "two values for one key mean three things: use object.union_n");
            }
            "Membership" => self.membership(expression, body, at),
            "ArithExpr" => {
                if body["op"] == "Div" {
                    self.fault(
                        expression,
                        "quotients differ in their last digit and their rounding: compare products",
                    );
                }
                self.both(body);
            }
            "BoolExpr" | "BinExpr" => self.both(body),
            "Call" => self.call(expression, body),
            "RefDot" => self.expression(&body["refr"], At::Value),
            "RefBrack" => {
                self.expression(&body["refr"], At::Value);
                if !self.known().is_settled(&body["index"]) {
                    let problem =
                        "in brackets stands a constant, or a name that is bound before: some … in, x := …";
                    self.fault(&body["index"], problem);
                }
            }
            "AssignExpr" => self.fault(expression, "a name is given in a statement of its own"),
            _ => {}
        }
    }

    fn both(&mut self, body: &Value) {
        self.expression(&body["lhs"], At::Value);
        self.expression(&body["rhs"], At::Value);
    }

    fn object(&mut self, body: &Value) {
        let mut keys = BTreeSet::new();
        for field in list(&body["fields"]) {
            if !literal(&field[1]).is_some_and(|key| keys.insert(key)) {
                self.fault(&field[1], "a key is a text that is written out once");
            }
            self.expression(&field[2], At::Value);
        }
    }

    fn membership(&mut self, expression: &Value, body: &Value, at: At) {
        if !body["key"].is_null() {
            self.fault(
                expression,
                "the machine does not look at the key of `key, value in`: compare object[key]",
            );
        }
        let parts = [&body["value"], &body["collection"]];
        let written_out = matches!(node(parts[1]), Some(("Array" | "Set", _))) && !is_constant(parts[1]);
        if written_out {
            // OPA 1.22 looks members up by an index that knows constants alone.
            self.fault(
                expression,
                "a collection that is written out behind in holds constants: x := {…} before it",
            );
        }
        if at != At::Condition && !parts.iter().all(|part| self.known().is_settled(part)) {
            self.fault(expression, "in, used as a value, takes constants and names: x := … before it");
        }
        parts.into_iter().for_each(|part| self.expression(part, At::Value));
    }

    fn call(&mut self, expression: &Value, body: &Value) {
        let name = path_of(&body["fcn"]).into_iter().collect::<Option<Vec<_>>>().map(|path| path.join("."));
        let (name, arguments) = (name.unwrap_or_default(), list(&body["params"]));
        for argument in arguments {
            self.expression(argument, At::Value);
        }
        if !ALLOWED.contains(&name.as_str()) {
            if let Some(open) = arguments.iter().find(|argument| !self.known().is_settled(argument)) {
                self.fault(open, "a function of the policy takes constants and names: x := … before it");
            }
            return;
        }
        if let Some(problem) = literals::fault(&name, arguments) {
            self.fault(expression, problem);
        }
        if name == "count" && arguments.first().is_some_and(|counted| self.known().is_text(counted)) {
            self.fault(
                expression,
                "count counts collections: engines count the letters of a text differently",
            );
        }
    }
}

fn is(statement: &Value, kind: &str) -> bool {
    node(&statement["literal"]).is_some_and(|(found, _)| found == kind)
}

/// The names that statements bind: of `:=` and of `some`.
fn bound(statements: &[Value]) -> BTreeSet<String> {
    let bound = statements.iter().flat_map(|statement| match node(&statement["literal"]) {
        Some(("Expr", body)) => match node(&body["expr"]) {
            Some(("AssignExpr", assignment)) => names(&assignment["lhs"]),
            _ => Vec::new(),
        },
        Some(("SomeIn", body)) => [names(&body["key"]), names(&body["value"])].concat(),
        _ => Vec::new(),
    });
    bound.filter(|name| *name != "_").map(str::to_owned).collect()
}

/// Every name that stands in an expression.
fn names(expression: &Value) -> Vec<&str> {
    match expression {
        Value::Array(items) => items.iter().flat_map(names).collect(),
        Value::Object(map) => match node(expression) {
            Some(("Var", body)) => body["value"].as_str().into_iter().collect(),
            _ => map.values().flat_map(names).collect(),
        },
        _ => Vec::new(),
    }
}
