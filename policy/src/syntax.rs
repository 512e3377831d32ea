//! Rego's syntax tree, as far as the checks need it: packages, imports, rules, and what rules read and call.
//!
//! The engine gives the tree as JSON. Each node of an expression is a mapping with one key, its kind.

use std::collections::BTreeMap;

use dayfly_domain::policy::{MAX_MODULE, PolicySource};
use regorus::{Engine, PolicyLengthConfig};
use serde_json::Value;

use crate::fault::engine_error;
use crate::guard;
use crate::language::{self, Imports, Yields};
use crate::shape;

/// Longest line of a module, in characters.
const MAX_COLUMN: u32 = 512;

/// Deepest tree, in levels of its JSON; one operator takes two.
const MAX_DEPTH: usize = 120;
/// Stack of the thread that reads a module. Only what is used of it takes memory.
const STACK: usize = 64 << 20;

/// One module.
#[derive(Debug)]
pub(crate) struct Module {
    pub(crate) file: String,
    pub(crate) text: String,
    /// `["dayfly", "training_hours"]`.
    pub(crate) package: Vec<String>,
    pub(crate) imports: Vec<Import>,
    pub(crate) rules: Vec<Rule>,
    /// What in it has no one meaning. Tests are not decided by, so nothing of theirs is here.
    pub(crate) beyond: Vec<((u32, u32), String)>,
    /// The text for the machine.
    pub(crate) guarded: String,
}

/// One import, with the name it is known by in the module.
#[derive(Debug)]
pub(crate) struct Import {
    pub(crate) path: Vec<String>,
    pub(crate) alias: String,
    pub(crate) place: (u32, u32),
}

impl Import {
    /// Whether it abbreviates a reference, and is no word of the language (`rego.v1`, `future.keywords.in`).
    pub(crate) fn is_reference(&self) -> bool {
        self.path.first().is_some_and(|first| first == "input" || first == "data")
    }
}

/// One definition. Several may have one name.
#[derive(Debug)]
pub(crate) struct Rule {
    /// The first segment of its head.
    pub(crate) name: String,
    pub(crate) place: (u32, u32),
    pub(crate) kind: RuleKind,
    pub(crate) yields: Yields,
    /// Everything it reads and calls, in its own order.
    pub(crate) found: Vec<Found>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RuleKind {
    Rule,
    Function,
    Default,
}

/// Something a rule holds.
#[derive(Debug)]
pub(crate) enum Found {
    /// A reference: `input.proven.stage`, `data.x[y]`, `reasons`. `None` is a segment known only when it runs.
    Reference { path: Vec<Option<String>>, place: (u32, u32) },
    /// A call, by its full name; `arguments` keeps the texts among its arguments.
    Call { name: String, arguments: Vec<Option<String>>, place: (u32, u32) },
}

/// What is wrong with a text that is no module: place and message.
pub(crate) type NotAModule = (Option<(u32, u32)>, String);

impl Module {
    /// Reads one module, on a stack that the deepest tree a module can hold does not fill: the engine follows a tree by
    /// calling itself.
    pub(crate) fn read(file: &str, text: &str) -> Result<Self, NotAModule> {
        if text.len() > MAX_MODULE {
            return Err((None, format!("has {} bytes; at most {MAX_MODULE} are taken", text.len())));
        }
        std::thread::scope(|scope| {
            let reader = std::thread::Builder::new().name("policy-reader".to_owned()).stack_size(STACK);
            match reader.spawn_scoped(scope, || Self::read_here(file, text)).map(|reader| reader.join()) {
                Ok(Ok(read)) => read,
                Ok(Err(_)) => Err((None, "the engine panicked".to_owned())),
                Err(error) => Err((None, format!("no thread to read it: {error}"))),
            }
        })
    }

    fn read_here(file: &str, text: &str) -> Result<Self, NotAModule> {
        if let Some((place, problem)) = shape::fault(text) {
            return Err((Some(place), problem));
        }
        let mut engine = Engine::new();
        engine.set_policy_length_config(lengths());
        engine
            .add_policy(file.to_owned(), text.to_owned())
            .map_err(|error| not_a_module(&error.to_string()))?;
        let tree = tree(&mut engine)?;
        let package = static_path(&tree["package"]["refr"]).ok_or((None, "no package".to_owned()))?;
        let imports = list(&tree["imports"]).iter().filter_map(|import| read_import(import, text)).collect();
        let mut module = Module {
            file: file.to_owned(),
            text: text.to_owned(),
            package,
            imports,
            rules: Vec::new(),
            beyond: Vec::new(),
            guarded: String::new(),
        };
        let known = module.known();
        let rules = list(&tree["rules"]).iter().map(|rule| (rule, language::check(rule, text, &known)));
        let mut beyond = Vec::new();
        module.rules = rules
            .filter_map(|(rule, (faults, yields))| {
                beyond.extend(faults);
                module.read_rule(rule, yields)
            })
            .collect();
        if !module.is_test() {
            // What is refused anyway needs no text for the machine.
            if beyond.is_empty() {
                module.guarded = guard::guarded(file, text, &tree).map_err(|problem| {
                    (None, format!("it cannot be made ready for the machine: {problem}"))
                })?;
            }
            module.beyond = beyond;
        }
        Ok(module)
    }

    pub(crate) fn is_test(&self) -> bool {
        PolicySource::is_test(&self.file)
    }

    fn known(&self) -> Imports<'_> {
        let references = self.imports.iter().filter(|import| import.is_reference());
        Imports {
            references: references.map(|import| (import.alias.as_str(), import.path.as_slice())).collect(),
            new_not: self.imports.iter().any(|import| import.path == ["future", "keywords", "not"]),
        }
    }

    fn read_rule(&self, rule: &Value, yields: Yields) -> Option<Rule> {
        let (kind, body) = node(rule)?;
        let mut finder = Finder { text: &self.text, found: Vec::new() };
        let (name, kind) = match kind {
            "Default" => {
                finder.collect(&body["value"]);
                (&body["refr"], RuleKind::Default)
            }
            _ => {
                let (kind, head) = node(&body["head"])?;
                let parts = [&head["key"], &head["args"], &head["assign"], &body["bodies"]];
                parts.into_iter().for_each(|part| finder.collect(part));
                (&head["refr"], if kind == "Func" { RuleKind::Function } else { RuleKind::Rule })
            }
        };
        finder.collect_indices(name);
        let mut found = finder.found;
        for item in &mut found {
            self.resolve(item);
        }
        let name = path_of(name).first()?.clone()?;
        Some(Rule { name, place: place(&body["span"], &self.text), kind, yields, found })
    }

    /// Writes out what an import abbreviates.
    fn resolve(&self, item: &mut Found) {
        let import =
            |first: &str| self.imports.iter().find(|import| import.alias == first && import.is_reference());
        match item {
            Found::Reference { path, .. } => {
                if let Some(import) = path.first().and_then(|first| import(first.as_deref()?)) {
                    path.splice(..1, import.path.iter().cloned().map(Some));
                }
            }
            Found::Call { name, .. } => {
                let (first, rest) = name.split_once('.').unwrap_or((name, ""));
                if let Some(import) = import(first) {
                    let dot = if rest.is_empty() { "" } else { "." };
                    *name = format!("{}{dot}{rest}", import.path.join("."));
                }
            }
        }
    }
}

/// The syntax tree of the one module an engine holds. Deep ones are refused while they are written, so that no walk of a
/// tree goes deep.
pub(crate) fn tree(engine: &mut Engine) -> Result<Value, NotAModule> {
    struct Bounded {
        json: Vec<u8>,
        depth: usize,
        in_text: bool,
        escaped: bool,
    }
    impl std::io::Write for Bounded {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            for byte in bytes {
                match byte {
                    _ if self.escaped => self.escaped = false,
                    b'\\' if self.in_text => self.escaped = true,
                    b'"' => self.in_text = !self.in_text,
                    b'{' | b'[' if !self.in_text => self.depth += 1,
                    b'}' | b']' if !self.in_text => self.depth -= 1,
                    _ => {}
                }
            }
            if self.depth > MAX_DEPTH {
                return Err(std::io::Error::other("too deep"));
            }
            self.json.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let too_deep = |_| (None, "an expression is nested too deeply, or has too many operators".to_owned());
    let module = engine.get_modules().first().ok_or_else(|| (None, "no module".to_owned()))?;
    let mut out = Bounded { json: Vec::new(), depth: 0, in_text: false, escaped: false };
    serde_json::to_writer(&mut out, &**module).map_err(too_deep)?;
    serde_json::from_slice(&out.json).map_err(too_deep)
}

/// What the engine takes as one module.
pub(crate) fn lengths() -> PolicyLengthConfig {
    let mut lengths = PolicyLengthConfig::default();
    lengths.max_col = MAX_COLUMN.try_into().unwrap_or(lengths.max_col);
    lengths.max_file_bytes = MAX_MODULE.try_into().unwrap_or(lengths.max_file_bytes);
    lengths
}

/// What the engine takes as one module with what [`guard::guarded`] adds to it: up to four letters for one.
pub(crate) fn lengths_guarded() -> PolicyLengthConfig {
    let mut lengths = PolicyLengthConfig::default();
    lengths.max_col = (4 * MAX_COLUMN).try_into().unwrap_or(lengths.max_col);
    lengths.max_file_bytes = (4 * MAX_MODULE).try_into().unwrap_or(lengths.max_file_bytes);
    lengths
}

/// Definitions by name, of all modules that are no tests.
pub(crate) fn by_name(modules: &[Module]) -> BTreeMap<&str, Vec<&Rule>> {
    let mut rules: BTreeMap<&str, Vec<&Rule>> = BTreeMap::new();
    for rule in modules.iter().filter(|module| !module.is_test()).flat_map(|module| &module.rules) {
        rules.entry(&rule.name).or_default().push(rule);
    }
    rules
}

fn not_a_module(text: &str) -> NotAModule {
    let (place, message) = engine_error(text);
    (place.map(|(_, line, column)| (line, column)), message)
}

fn read_import(import: &Value, text: &str) -> Option<Import> {
    let path = static_path(&import["refr"])?;
    let alias = match &import["as"] {
        Value::Null => path.last()?.clone(),
        span => {
            let at = |key: &str| span[key].as_u64().and_then(|at| usize::try_from(at).ok());
            text.get(at("start")?..at("end")?)?.to_owned()
        }
    };
    Some(Import { path, alias, place: place(&import["span"], text) })
}

/// Gathers what an expression reads and calls.
struct Finder<'a> {
    text: &'a str,
    found: Vec<Found>,
}

impl Finder<'_> {
    fn collect(&mut self, value: &Value) {
        match value {
            Value::Array(items) => items.iter().for_each(|item| self.collect(item)),
            Value::Object(map) => match node(value) {
                Some(("Var" | "RefDot" | "RefBrack", body)) => {
                    let place = place(&body["span"], self.text);
                    self.found.push(Found::Reference { path: path_of(value), place });
                    self.collect_indices(value);
                }
                Some(("Call", body)) => {
                    let name =
                        static_path(&body["fcn"]).map_or_else(|| "?".to_owned(), |path| path.join("."));
                    let arguments = list(&body["params"]).iter().map(literal).collect();
                    let span = node(&body["fcn"]).map_or(&Value::Null, |(_, function)| &function["span"]);
                    self.found.push(Found::Call { name, arguments, place: place(span, self.text) });
                    self.collect(&body["params"]);
                }
                _ => map.values().for_each(|inner| self.collect(inner)),
            },
            _ => {}
        }
    }

    /// What stands in the brackets of a reference, and what the reference starts from if that is no name.
    fn collect_indices(&mut self, reference: &Value) {
        match node(reference) {
            Some(("RefDot", body)) => self.collect_indices(&body["refr"]),
            Some(("RefBrack", body)) => {
                self.collect_indices(&body["refr"]);
                self.collect(&body["index"]);
            }
            Some(("Var", _)) => {}
            _ => self.collect(reference),
        }
    }
}

/// The segments of a reference; `None` for those known only when it runs.
pub(crate) fn path_of(reference: &Value) -> Vec<Option<String>> {
    let mut path = Vec::new();
    let mut at = reference;
    loop {
        match node(at) {
            Some(("Var", body)) => {
                path.push(body["value"].as_str().map(str::to_owned));
                break;
            }
            Some(("RefDot", body)) => {
                path.push(body["field"][1].as_str().map(str::to_owned));
                at = &body["refr"];
            }
            Some(("RefBrack", body)) => {
                path.push(literal(&body["index"]));
                at = &body["refr"];
            }
            _ => {
                path.push(None);
                break;
            }
        }
    }
    path.reverse();
    path
}

fn static_path(reference: &Value) -> Option<Vec<String>> {
    path_of(reference).into_iter().collect()
}

pub(crate) fn literal(expression: &Value) -> Option<String> {
    match node(expression)? {
        ("String" | "RawString", body) => body["value"].as_str().map(str::to_owned),
        _ => None,
    }
}

/// A node: a mapping with one key, which names its kind.
pub(crate) fn node(value: &Value) -> Option<(&str, &Value)> {
    let map = value.as_object().filter(|map| map.len() == 1)?;
    let (kind, body) = map.iter().next()?;
    kind.starts_with(|first: char| first.is_ascii_uppercase()).then_some((kind.as_str(), body))
}

pub(crate) fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// Where a span begins. The engine's own line and column are those of a reference's last part.
pub(crate) fn place(span: &Value, text: &str) -> (u32, u32) {
    let start = span["start"].as_u64().and_then(|start| usize::try_from(start).ok());
    let before = start.and_then(|start| text.get(..start)).unwrap_or_default();
    let line = before.matches('\n').count();
    let column = before.rsplit('\n').next().map_or(0, |begun| begun.chars().count());
    let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX).saturating_add(1);
    (count(line), count(column))
}
