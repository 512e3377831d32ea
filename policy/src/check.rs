//! What a policy may not do, told from its syntax tree, before anything of it runs.

use std::collections::{BTreeMap, BTreeSet};

use dayfly_domain::policy::PolicySource;

use crate::builtins::{ALLOWED, refusal};
use crate::fault::{PolicyFault, excerpt};
use crate::language::Yields;
use crate::syntax::{Found, Module, Rule, RuleKind, by_name};

/// The roots of the input.
pub(crate) const ROOTS: [&str; 3] = ["proven", "observed", "claimed"];
/// Longest chain of rules that rest on each other. The machine calls itself for each.
pub(crate) const MAX_CHAIN: usize = 24;
/// Widest field that a format may ask `sprintf` for, in digits of its width.
const MAX_WIDTH_DIGITS: usize = 3;

/// Every fault of modules that could be read.
pub(crate) fn check(source: &PolicySource, modules: &[Module]) -> Vec<PolicyFault> {
    let package: Vec<String> = source.package().split('.').map(str::to_owned).collect();
    let rules = by_name(modules);
    let mut faults = Vec::new();
    for module in modules {
        let checker = Checker { source, module, package: &package, rules: &rules };
        checker.check(&mut faults);
    }
    let tests = modules.iter().flat_map(|module| &module.rules).filter(|rule| is_test(rule));
    if tests.count() == 0 {
        let problem = "the policy has no test: no rule of a *_test.rego module is named test_…";
        faults.push(whole(source, problem.to_owned()));
    }
    match rules.get("decision").map(|rules| rules.iter().all(|rule| rule.kind != RuleKind::Function)) {
        Some(true) => {}
        _ => faults.push(whole(source, format!("no module defines the rule {}.decision", source.package()))),
    }
    faults.extend(chains(&rules).err().map(|problem| whole(source, problem)));
    faults
}

/// Whether a rule is one of the policy's own tests.
pub(crate) fn is_test(rule: &Rule) -> bool {
    rule.name.starts_with("test_") && rule.kind == RuleKind::Rule
}

fn whole(source: &PolicySource, problem: String) -> PolicyFault {
    let (policy, excerpt) = (source.name.clone(), String::new());
    PolicyFault { policy, file: String::new(), place: None, problem, excerpt }
}

struct Checker<'a> {
    source: &'a PolicySource,
    module: &'a Module,
    package: &'a [String],
    rules: &'a BTreeMap<&'a str, Vec<&'a Rule>>,
}

impl Checker<'_> {
    fn check(&self, faults: &mut Vec<PolicyFault>) {
        let mut at = |(line, column): (u32, u32), problem: String| {
            faults.push(PolicyFault {
                policy: self.source.name.clone(),
                file: self.module.file.clone(),
                place: Some((line, column)),
                problem,
                excerpt: excerpt(&self.module.text, line, column),
            });
        };
        if !self.is_own_package(&self.module.package) {
            let (own, found) = (self.source.package(), self.module.package.join("."));
            let or = if self.module.is_test() { format!(" or {own}_test") } else { String::new() };
            at((1, 1), format!("the package is {found}; the policy's is {own}{or}"));
        }
        for import in self.module.imports.iter().filter(|import| import.is_reference()) {
            let path: Vec<_> = import.path.iter().cloned().map(Some).collect();
            self.check_reference(&path, import.place, &mut at);
        }
        for (place, problem) in &self.module.beyond {
            at(*place, problem.clone());
        }
        for rule in &self.module.rules {
            if !self.module.is_test() && self.yields_several(rule) {
                let problem =
                    "another definition may yield another value at once: make one of them, with else";
                at(rule.place, problem.to_owned());
            }
            if rule.name.starts_with("test_") && !self.module.is_test() {
                at(rule.place, "tests stand in modules named *_test.rego".to_owned());
            }
            for found in &rule.found {
                match found {
                    Found::Reference { path, place } => self.check_reference(path, *place, &mut at),
                    Found::Call { name, arguments, place } => {
                        self.check_call(name, arguments, *place, &mut at)
                    }
                }
            }
        }
    }

    /// Whether a rule or a function has another value by another definition: the machine takes that for undefined, and
    /// what is undefined denies nothing.
    fn yields_several(&self, rule: &Rule) -> bool {
        let same = self.rules.get(rule.name.as_str()).into_iter().flatten();
        let mut others = same.filter(|other| other.kind != RuleKind::Default && !std::ptr::eq(**other, rule));
        let alike = matches!(rule.yields, Yields::Constant(_) | Yields::Member);
        rule.kind != RuleKind::Default && others.any(|other| !alike || other.yields != rule.yields)
    }

    fn check_reference(
        &self,
        path: &[Option<String>],
        place: (u32, u32),
        at: &mut impl FnMut((u32, u32), String),
    ) {
        let second = path.get(1).and_then(|segment| segment.as_deref());
        match path.first().and_then(|first| first.as_deref()) {
            Some("input") if !self.module.is_test() && !second.is_some_and(|root| ROOTS.contains(&root)) => {
                let roots = ROOTS.map(|root| format!("input.{root}")).join(", ");
                at(place, format!("say which root of the input is read: {roots}"));
            }
            Some("data") if !self.module.is_test() && !path.get(3).is_some_and(Option::is_some) => {
                at(place, format!("say which rule is read: data.{}.<rule>", self.source.package()));
            }
            Some("data") => {
                let known: Option<Vec<String>> = path[1..].iter().take(2).cloned().collect();
                if !known.is_some_and(|package| self.is_own_package(&package)) {
                    let own = self.source.package();
                    at(place, format!("there is no data but the policy's own rules, data.{own}"));
                }
            }
            _ => {}
        }
    }

    fn check_call(
        &self,
        name: &str,
        arguments: &[Option<String>],
        place: (u32, u32),
        at: &mut impl FnMut((u32, u32), String),
    ) {
        let own = format!("data.{}.", self.source.package());
        let local = name.strip_prefix(&own).unwrap_or(name);
        let first = local.split('.').next().unwrap_or_default();
        let in_module =
            |rule: &Rule| self.module.is_test() && rule.kind == RuleKind::Function && rule.name == first;
        let is_function = |rules: &Vec<&Rule>| rules.iter().any(|rule| rule.kind == RuleKind::Function);
        if self.rules.get(first).is_some_and(is_function) || self.module.rules.iter().any(in_module) {
            return;
        }
        if !ALLOWED.contains(&name) {
            at(place, refusal(name));
            return;
        }
        match (name, arguments.first()) {
            ("sprintf", Some(None)) => at(place, "the format of sprintf must be written out".to_owned()),
            ("sprintf", Some(Some(format))) if has_wide_field(format) => {
                at(place, format!("a field of the format is {MAX_WIDTH_DIGITS} digits wide or wider"));
            }
            _ if name.starts_with("time.") && self.module.text.contains("\"Local\"") => {
                at(place, "name a time zone: \"Local\" is whatever the broker's host says".to_owned());
            }
            _ => {}
        }
    }

    fn is_own_package(&self, package: &[String]) -> bool {
        let of_tests = || {
            let [.., last] = self.package else { return false };
            self.module.is_test() && package.len() == 2 && package[1] == format!("{last}_test")
        };
        package == self.package || (package.first() == self.package.first() && of_tests())
    }
}

/// Whether `%1000d` stands in a format: padding is memory.
fn has_wide_field(format: &str) -> bool {
    let widths = format.split('%').skip(1).map(|after| {
        after.trim_start_matches(['+', '-', ' ', '#', '.']).bytes().take_while(u8::is_ascii_digit).count()
    });
    widths.max().unwrap_or(0) >= MAX_WIDTH_DIGITS
}

/// What is wrong with how rules rest on each other. The engine's compiler does not tell cycles, and the machine would call
/// itself until its stack is full.
fn chains(rules: &BTreeMap<&str, Vec<&Rule>>) -> Result<(), String> {
    let mut depths = BTreeMap::new();
    rules.keys().try_for_each(|name| depth(name, rules, &mut depths, &mut Vec::new()).map(drop))
}

fn depth<'a>(
    name: &'a str,
    rules: &BTreeMap<&'a str, Vec<&'a Rule>>,
    depths: &mut BTreeMap<&'a str, usize>,
    above: &mut Vec<&'a str>,
) -> Result<usize, String> {
    if let Some(known) = depths.get(name) {
        return Ok(*known);
    }
    if above.contains(&name) {
        let chain = above.join(", ");
        return Err(format!(
            "rule {name} rests on itself, by way of {chain}; if one of these is a local variable, rename it"
        ));
    }
    above.push(name);
    let mut deepest = 0;
    for used in rules[name].iter().flat_map(|rule| uses(rule, rules)).collect::<BTreeSet<_>>() {
        deepest = deepest.max(depth(used, rules, depths, above)?);
        if deepest >= MAX_CHAIN {
            return Err(format!("rule {name} rests on a chain of more than {MAX_CHAIN} rules"));
        }
    }
    above.pop();
    depths.insert(name, deepest + 1);
    Ok(deepest + 1)
}

/// The rules of the package that a definition rests on.
pub(crate) fn uses<'a>(rule: &Rule, rules: &BTreeMap<&'a str, Vec<&'a Rule>>) -> BTreeSet<&'a str> {
    let named = rule.found.iter().filter_map(|found| match found {
        Found::Reference { path, .. } => match path.first()?.as_deref()? {
            "data" => path.get(3)?.as_deref(),
            first => Some(first),
        },
        Found::Call { name, .. } => {
            let mut segments = name.split('.');
            match segments.next() {
                Some("data") => segments.nth(2),
                first => first,
            }
        }
    });
    named.filter_map(|name| rules.get_key_value(name).map(|(name, _)| *name)).collect()
}
