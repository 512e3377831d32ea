//! The set of policies in force: asked for every decision, swapped whole.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use dayfly_domain::policy::{Judge, Judgement, Narrowing, PolicyInput, PolicySource, PolicyStep};
use regorus::Value;

use crate::answer::{Answer, MAX_STATEMENT_BYTES, MAX_TAGS};
use crate::fault::{PolicyFault, engine_error, one_line};
use crate::input;
use crate::load::{Policy, TestRun};
use crate::syntax::RuleKind;

/// Longest text of a failure or a step, in bytes.
const MAX_WHAT: usize = 512;

/// Policies that were loaded together.
#[derive(Default)]
pub struct PolicySet {
    /// In the order of their names: the first that denies is the one that is told.
    policies: Vec<Arc<Policy>>,
    /// The policies that name scopes, by scope, and those for every scope with them; in order.
    by_scope: HashMap<String, Vec<Arc<Policy>>>,
    /// The policies for every scope.
    for_every: Vec<Arc<Policy>>,
}

/// The names: sources are long, and engines longer.
impl fmt::Debug for PolicySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}

/// What both engines say about one input: the rule's value as JSON (`None` if undefined), or what failed.
#[derive(Clone, Debug, PartialEq)]
pub struct RawDecisions {
    /// The register machine, which makes live decisions.
    pub machine: Result<Option<serde_json::Value>, String>,
    /// The interpreter, which explains them.
    pub interpreter: Result<Option<serde_json::Value>, String>,
}

impl PolicySet {
    /// Loads policies whole, or tells every fault of all of them.
    pub fn load(sources: &[PolicySource]) -> Result<Self, Vec<PolicyFault>> {
        Self::reload(sources, &PolicySet::default())
    }

    /// The same, keeping what an earlier set has loaded from the very same document.
    pub fn reload(sources: &[PolicySource], earlier: &PolicySet) -> Result<Self, Vec<PolicyFault>> {
        let mut policies = Vec::new();
        let mut faults = Vec::new();
        for source in sources {
            if let Some(same) = earlier.policies.iter().find(|policy| policy.source == *source) {
                policies.push(same.clone());
                continue;
            }
            match Policy::load(source).0 {
                Ok(policy) => policies.push(Arc::new(policy)),
                Err(more) => faults.extend(more),
            }
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        policies.sort_by(|a, b| a.source.name.cmp(&b.source.name));
        let of = |scope: Option<&str>| -> Vec<Arc<Policy>> {
            let is_for = |policy: &&Arc<Policy>| match scope {
                Some(scope) => policy.source.is_for(scope),
                None => policy.source.scopes.is_none(),
            };
            policies.iter().filter(is_for).cloned().collect()
        };
        let named = policies.iter().flat_map(|policy| policy.source.scopes.iter().flatten());
        let by_scope = named.map(|scope| (scope.clone(), of(Some(scope)))).collect();
        let for_every = of(None);
        Ok(Self { policies, by_scope, for_every })
    }

    /// Loads one policy for the sake of its tests: what each did, and the faults that would refuse the policy.
    pub fn test(source: &PolicySource) -> (Vec<TestRun>, Vec<PolicyFault>) {
        let (loaded, runs) = Policy::load(source);
        (runs, loaded.err().unwrap_or_default())
    }

    /// Names of the policies, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.policies.iter().map(|policy| policy.source.name.as_str())
    }

    /// What both engines say about any input, valid or not; `None` if there is no such policy.
    pub fn raw_decisions(&self, name: &str, input: &serde_json::Value) -> Option<RawDecisions> {
        let policy = self.policies.iter().find(|policy| policy.source.name == name)?;
        let input = Value::from(input.clone());
        let json = |decision: Result<Value, String>| match decision? {
            Value::Undefined => Ok(None),
            value => serde_json::to_value(&value).map(Some).map_err(|error| error.to_string()),
        };
        let machine = json(policy.machine.run(input.clone()));
        let interpreter = json(policy.interpreter.rule(&policy.entry, input));
        Some(RawDecisions { machine, interpreter })
    }

    /// The judgement of any input by the policies for its `proven.scope`, for tests that make inputs of their own.
    pub fn judge_json(&self, input: &serde_json::Value) -> Judgement {
        let scope = input["proven"]["scope"].as_str().unwrap_or_default();
        self.judge_value(scope, &Value::from(input.clone()))
    }

    /// The explanation of any input, for the same.
    pub fn explain_json(&self, input: &serde_json::Value) -> (Judgement, Vec<PolicyStep>) {
        let scope = input["proven"]["scope"].as_str().unwrap_or_default();
        self.explain_value(scope, &Value::from(input.clone()))
    }

    fn for_scope(&self, scope: &str) -> &[Arc<Policy>] {
        self.by_scope.get(scope).unwrap_or(&self.for_every)
    }

    fn explain_value(&self, scope: &str, input: &Value) -> (Judgement, Vec<PolicyStep>) {
        let steps = self.for_scope(scope).iter().flat_map(|policy| policy.explain(input)).collect();
        (self.judge_value(scope, input), steps)
    }

    fn judge_value(&self, scope: &str, input: &Value) -> Judgement {
        let mut whole = Narrowing::default();
        for policy in self.for_scope(scope) {
            let fail =
                |what: String| Judgement::Fail { policy: policy.source.name.clone(), what: told(&what) };
            let answer = match policy.machine.run(input.clone()).and_then(|value| Answer::read(&value)) {
                Ok(answer) => answer,
                Err(what) => return fail(what),
            };
            if !answer.allow {
                return Judgement::Deny { policy: policy.source.name.clone(), reasons: answer.reasons };
            }
            if let Some(key) = whole.conflict(&answer.narrow) {
                return fail(format!("sets the tag {key:?} to another value than a policy before it"));
            }
            whole.and(answer.narrow);
            if let Some(what) = overflow(&whole) {
                return fail(what);
            }
        }
        Judgement::Allow(whole)
    }
}

impl Judge for PolicySet {
    fn judge(&self, input: &PolicyInput<'_>) -> Judgement {
        match self.for_scope(input.proven.scope) {
            [] => Judgement::Allow(Narrowing::default()),
            _ => self.judge_value(input.proven.scope, &input::value(input)),
        }
    }

    fn explain(&self, input: &PolicyInput<'_>) -> (Judgement, Vec<PolicyStep>) {
        self.explain_value(input.proven.scope, &input::value(input))
    }

    fn is_for(&self, scope: &str) -> bool {
        !self.for_scope(scope).is_empty()
    }

    fn of_scope(&self, scope: &str) -> Vec<(String, String)> {
        let policies = self.for_scope(scope).iter();
        policies.map(|policy| (policy.source.name.clone(), policy.source.digest.clone())).collect()
    }
}

impl Policy {
    /// Each definition, then the whole answer.
    fn explain(&self, input: &Value) -> Vec<PolicyStep> {
        let step = |rule: String, matched: bool, what: String| PolicyStep {
            policy: self.source.name.clone(),
            rule,
            matched,
            what: told(&what),
        };
        let package = self.source.package();
        let package: Vec<&str> = package.split('.').collect();
        let (definitions, failure) = self.interpreter.definitions(&package, input, |module, number| {
            let rule = self.modules.get(module)?.rules.get(number)?;
            (rule.kind == RuleKind::Rule).then_some(rule.name.as_str())
        });
        let mut steps: Vec<PolicyStep> = definitions
            .into_iter()
            .map(|definition| {
                let module = &self.modules[definition.module];
                let rule = &module.rules[definition.number];
                let (matched, what) = yielded(&definition.value);
                step(format!("{}:{} {}", module.file, rule.place.0, rule.name), matched, what)
            })
            .collect();
        steps.extend(failure.map(|what| step("evaluation".to_owned(), false, what)));
        let live = self.machine.run(input.clone());
        let explained = self.interpreter.rule(&self.entry, input.clone());
        if let (Ok(live), Ok(explained)) = (&live, &explained)
            && live != explained
        {
            let what = format!("the engines differ: the explanation would be {explained}");
            steps.push(step("decision".to_owned(), false, what));
        }
        let (matched, what) = match live.and_then(|value| Answer::read(&value)) {
            Err(what) => (false, format!("no answer: {what}")),
            Ok(Answer { allow: false, reasons, .. }) => (false, format!("denies: {}", reasons.join("; "))),
            Ok(Answer { narrow, .. }) if narrow == Narrowing::default() => (true, "allows".to_owned()),
            Ok(Answer { narrow, .. }) => {
                let narrow = serde_json::to_string(&narrow).unwrap_or_default();
                (true, format!("allows, narrowed: {narrow}"))
            }
        };
        steps.push(step("decision".to_owned(), matched, what));
        steps
    }
}

/// Whether a definition's body held, and what it yielded.
fn yielded(value: &Value) -> (bool, String) {
    let empty = match value {
        Value::Undefined => return (false, "does not hold".to_owned()),
        Value::Set(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(flag) => !flag,
        _ => false,
    };
    (!empty, value.to_string())
}

/// What all policies together may not exceed.
fn overflow(narrow: &Narrowing) -> Option<String> {
    if narrow.tags.len() > MAX_TAGS {
        return Some(format!("with the policies before it more than {MAX_TAGS} tags are set"));
    }
    let bytes: usize = narrow.deny_statements.iter().map(|statement| statement.to_string().len()).sum();
    (bytes > MAX_STATEMENT_BYTES).then(|| {
        format!("with the policies before it the deny statements have more than {MAX_STATEMENT_BYTES} bytes")
    })
}

fn told(what: &str) -> String {
    one_line(&engine_error(what).1, MAX_WHAT)
}
