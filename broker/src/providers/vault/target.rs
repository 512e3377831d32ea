//! `spec.target.vault` of a scope: which token role, and what a token of it must be.

use std::collections::{BTreeMap, BTreeSet};

use dayfly_domain::parameter::{ParameterType, Parameters};
use dayfly_domain::scope::Scope;
use dayfly_domain::template::TemplateFault;
use dayfly_domain::time::Ttl;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::FIRST_TTL;

/// Most token roles that one scope may stand for.
const MOST_VARIANTS: usize = 256;

/// A rendered target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// The token role.
    pub(super) role: String,
    /// The policies a token has, no more and no fewer.
    pub(super) policies: BTreeSet<String>,
    /// The longest a token lives, however often it is renewed.
    pub(super) explicit_max_ttl: Ttl,
    /// What the policies let a task read.
    pub(super) kinds: BTreeSet<Kind>,
}

/// What can be read at a path, told apart by what stays with the reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    /// Stored values: known for good once read.
    Static,
    /// Secrets with a lease: they end with the token.
    Dynamic,
    /// Certificates without a lease: valid until they expire.
    Certificate,
}

impl Kind {
    const ALL: [(&'static str, Kind); 3] =
        [("static", Kind::Static), ("dynamic", Kind::Dynamic), ("certificate", Kind::Certificate)];

    /// The word for it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Kind::Static => "static",
            Kind::Dynamic => "dynamic",
            Kind::Certificate => "certificate",
        }
    }
}

impl Target {
    /// Reads a rendered tree and tells every fault.
    pub(super) fn read(tree: &Value) -> Result<Self, Vec<TemplateFault>> {
        let mut faults = Vec::new();
        let mut fault = |path: &str, problem: &str| {
            faults.push(TemplateFault { path: path.to_owned(), problem: problem.to_owned() });
        };
        let Value::Object(fields) = tree else {
            fault("", "expected a mapping with role, policies and explicit_max_ttl");
            return Err(faults);
        };
        for key in fields.keys() {
            if !["role", "policies", "explicit_max_ttl", "kinds"].contains(&key.as_str()) {
                fault(key, "unknown key");
            }
        }
        let role = fields.get("role").and_then(Value::as_str).unwrap_or_default();
        if !is_role(role) {
            fault("role", "expected the name of a token role: letters, digits, dot, dash, underscore");
        }
        let policies = texts(fields.get("policies"));
        if policies.is_empty() {
            fault("policies", "expected a list of at least one policy, without doubles");
        }
        for policy in &policies {
            match policy.as_str() {
                "root" | "default" => fault("policies", "root and default are never given to a task"),
                // Vault lowers the case of policy names.
                name if !is_policy(name) => fault(
                    "policies",
                    "a policy's name holds lower-case letters, digits, dot, dash, underscore, slash",
                ),
                _ => {}
            }
        }
        let explicit_max_ttl =
            fields.get("explicit_max_ttl").and_then(Value::as_str).and_then(|text| text.parse().ok());
        let explicit_max_ttl: Ttl = explicit_max_ttl.unwrap_or_default();
        if explicit_max_ttl < FIRST_TTL || !explicit_max_ttl.as_millis().is_multiple_of(1000) {
            fault("explicit_max_ttl", "expected a span of whole seconds like 8h, at least 30s");
        }
        let kinds = fields.get("kinds").map_or_else(BTreeSet::new, |kinds| texts(Some(kinds)));
        if fields.contains_key("kinds") && kinds.is_empty() {
            fault("kinds", "expected a list of at least one of static, dynamic, certificate");
        }
        let mut known = BTreeSet::new();
        for name in &kinds {
            match Kind::ALL.into_iter().find(|(word, _)| word == name) {
                Some((_, kind)) => {
                    known.insert(kind);
                }
                None => fault("kinds", "a kind is one of static, dynamic, certificate"),
            }
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        Ok(Self { role: role.to_owned(), policies, explicit_max_ttl, kinds: known })
    }
}

/// Checks a scope without asking Vault: every fault, once.
pub(super) fn check(scope: &Scope) -> Vec<TemplateFault> {
    let mut faults = BTreeMap::new();
    let mut note = |path: &str, problem: String| {
        faults
            .entry((path.to_owned(), problem.clone()))
            .or_insert_with(|| TemplateFault { path: path.to_owned(), problem });
    };
    for key in ["role", "policies", "explicit_max_ttl", "kinds"] {
        for name in scope.target.parameters_under(key) {
            let listed =
                matches!(scope.parameters.get(&name).map(|spec| &spec.kind), Some(ParameterType::Enum(_)));
            if !listed {
                // A role that nobody wrote down is a role that nobody checked.
                note(key, format!("parameter {name:?} must be of type enum here"));
            }
        }
    }
    match variants(scope) {
        Err(problem) => note("role", problem),
        Ok(trees) => {
            for target in trees.iter().map(Target::read) {
                match target {
                    Err(found) => found.into_iter().for_each(|fault| note(&fault.path, fault.problem)),
                    Ok(target) if target.explicit_max_ttl < scope.ttl.max => {
                        let problem = format!("must be at least spec.ttl.max ({})", scope.ttl.max);
                        note("explicit_max_ttl", problem);
                    }
                    Ok(_) => {}
                }
            }
        }
    }
    for (name, ttl) in [("default", scope.ttl.default), ("max", scope.ttl.max)] {
        if !ttl.as_millis().is_multiple_of(1000) {
            note("", format!("Vault counts in seconds: spec.ttl.{name} must be whole seconds"));
        }
    }
    faults.into_values().collect()
}

/// Every target that the scope may render to, one for each choice of its enum values.
pub(super) fn variants(scope: &Scope) -> Result<Vec<Value>, String> {
    let mut choices = vec![Parameters::new()];
    let tree = scope.target.tree().as_object();
    let names: BTreeSet<String> =
        tree.into_iter().flatten().flat_map(|(key, _)| scope.target.parameters_under(key)).collect();
    for name in names {
        let values = match scope.parameters.get(&name).map(|spec| &spec.kind) {
            Some(ParameterType::Enum(values)) => values.clone(),
            // Told as a fault of its own; the rest of the target is still checked.
            _ => vec!["x".to_owned()],
        };
        choices = choices
            .iter()
            .flat_map(|choice| values.iter().map(|value| with(choice, &name, value)))
            .take(MOST_VARIANTS + 1)
            .collect();
        if choices.len() > MOST_VARIANTS {
            return Err(format!(
                "its parameters name more than {MOST_VARIANTS} token roles; make several scopes"
            ));
        }
    }
    choices.iter().map(|choice| scope.target.render(choice).map_err(|changed| changed.to_string())).collect()
}

fn with(choice: &Parameters, name: &str, value: &str) -> Parameters {
    let mut choice = choice.clone();
    choice.insert(name.to_owned(), value.to_owned());
    choice
}

/// A list of different texts; empty if it is anything else.
fn texts(value: Option<&Value>) -> BTreeSet<String> {
    let Some(Value::Array(items)) = value else { return BTreeSet::new() };
    let texts: BTreeSet<String> = items.iter().filter_map(Value::as_str).map(str::to_owned).collect();
    if texts.len() == items.len() { texts } else { BTreeSet::new() }
}

/// The name stands in a path: `auth/token/create/<role>`.
fn is_role(name: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    name.len() <= 128 && name.bytes().all(legal) && name.bytes().any(|byte| byte != b'.')
}

fn is_policy(name: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-/".contains(&byte);
    !name.is_empty() && name.len() <= 256 && name.bytes().all(legal)
}

#[cfg(test)]
mod tests {
    use dayfly_domain::parameter::ParameterSpec;
    use dayfly_domain::scope::TtlLimits;
    use dayfly_domain::template::Template;
    use serde_json::json;

    use super::*;

    fn scope(target: Value) -> Scope {
        let list = |values: &[&str]| ParameterType::Enum(values.iter().map(|v| (*v).to_owned()).collect());
        let spec = |kind| ParameterSpec { kind, pattern: None };
        let parameters = BTreeMap::from([
            ("team".to_owned(), spec(list(&["red", "blue"]))),
            ("place".to_owned(), spec(list(&["../sys", "ok"]))),
            ("free".to_owned(), spec(ParameterType::Segment)),
        ]);
        Scope {
            name: "kb".into(),
            description: String::new(),
            stages: BTreeSet::new(),
            target: Template::parse(target, &parameters).expect("a template"),
            parameters,
            ttl: TtlLimits { default: Ttl::minutes(5), max: Ttl::hours(1) },
            anchor: None,
            approval: None,
            leaves_behind: Vec::new(),
            limits: Default::default(),
            on_agent_loss: Default::default(),
            provider: "vault".into(),
            digest: String::new(),
        }
    }

    fn paths(target: Value) -> Vec<String> {
        let mut paths: Vec<String> = check(&scope(target)).into_iter().map(|fault| fault.path).collect();
        paths.dedup();
        paths
    }

    #[test]
    fn a_whole_target_reads() {
        let target = json!({"role": "kb-{team}", "policies": ["kb-{team}", "kb/read"], "explicit_max_ttl": "8h", "kinds": ["static"]});
        assert_eq!(check(&scope(target.clone())), []);
        let roles: Vec<Value> =
            variants(&scope(target)).expect("two").iter().map(|tree| tree["role"].clone()).collect();
        assert_eq!(roles, ["kb-red", "kb-blue"]);
    }

    #[test]
    fn all_faults_are_told_at_once() {
        let target = json!({"role": "a b", "policies": ["Root", "default"], "explicit_max_ttl": "5s", "kinds": ["x"], "colour": 1});
        assert_eq!(paths(target), ["colour", "explicit_max_ttl", "kinds", "policies", "role"]);
        assert_eq!(paths(json!({})), ["explicit_max_ttl", "policies", "role"]);
        assert_eq!(paths(json!("kb")), [""]);
    }

    #[test]
    fn only_listed_values_may_name_a_role() {
        let free = json!({"role": "{free}", "policies": ["kb"], "explicit_max_ttl": "8h"});
        assert_eq!(paths(free), ["role"]);
        let out = json!({"role": "{place}", "policies": ["kb"], "explicit_max_ttl": "8h"});
        assert_eq!(paths(out), ["role"]);
    }

    #[test]
    fn a_token_may_outlive_no_wall_and_no_scope() {
        let low = json!({"role": "kb", "policies": ["kb"], "explicit_max_ttl": "30m"});
        assert_eq!(paths(low), ["explicit_max_ttl"]);
    }

    #[test]
    fn policies_are_named_once_each() {
        for policies in [json!([]), json!("kb"), json!(["kb", "kb"]), json!(["kb", 1]), json!(["kb*"])] {
            let target = json!({"role": "kb", "policies": policies, "explicit_max_ttl": "8h"});
            assert_eq!(paths(target), ["policies"], "{policies}");
        }
    }
}
