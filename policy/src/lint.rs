//! Rules that rest on nothing but the workload's word.

use std::collections::{BTreeMap, BTreeSet};

use dayfly_domain::policy::PolicySource;

use crate::check::uses;
use crate::syntax::{Found, Module, Rule, by_name};

/// A definition that rests on claims alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestsOnClaims {
    /// The module's file name.
    pub file: String,
    /// The line the definition begins on.
    pub line: u32,
    /// Its name.
    pub rule: String,
}

/// The definitions that read `input.claimed` and neither `input.proven` nor `input.observed`, themselves or through the
/// rules and functions of the package that they name. Modules that cannot be read give nothing: loading tells of them.
///
/// It is told from the syntax tree, so it errs in known ways. A definition that names a proven root in passing is not
/// found, though its answer hangs on the claim. A rule that narrows by what is claimed (`claimed.ttl`) is found, and is
/// no mistake. A local variable with the name of a rule counts as that rule.
pub fn rests_on_claims(source: &PolicySource) -> Vec<RestsOnClaims> {
    let read = source.modules.iter().filter_map(|(file, text)| Module::read(file, text).ok());
    let modules: Vec<Module> = read.collect();
    let rules = by_name(&modules);
    let definitions = modules
        .iter()
        .filter(|module| !module.is_test())
        .flat_map(|module| module.rules.iter().map(move |rule| (module, rule)));
    let alone: BTreeSet<&str> = ["claimed"].into();
    definitions
        .filter(|(_, rule)| roots(rule, &rules) == alone)
        .map(|(module, rule)| RestsOnClaims {
            file: module.file.clone(),
            line: rule.place.0,
            rule: rule.name.clone(),
        })
        .collect()
}

/// The roots of the input that a definition reads, itself or through others.
fn roots<'a>(rule: &'a Rule, rules: &BTreeMap<&'a str, Vec<&'a Rule>>) -> BTreeSet<&'a str> {
    let mut seen = BTreeSet::new();
    let mut open = vec![rule];
    let mut roots = BTreeSet::new();
    while let Some(rule) = open.pop() {
        roots.extend(rule.found.iter().filter_map(|found| match found {
            Found::Reference { path, .. } if path.first()?.as_deref() == Some("input") => {
                path.get(1)?.as_deref()
            }
            _ => None,
        }));
        for used in uses(rule, rules) {
            if seen.insert(used) {
                open.extend(&rules[used]);
            }
        }
    }
    roots
}
