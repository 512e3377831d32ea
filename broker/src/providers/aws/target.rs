//! `spec.target.aws` of a scope: which role, and what its sessions may do.

use std::collections::BTreeSet;

use dayfly_domain::aws_deny::{NotAWhen, RevokeWhen};
use dayfly_domain::parameter::{MAX_PATH, MAX_SEGMENT, ParameterSpec, ParameterType, Parameters};
use dayfly_domain::scope::Scope;
use dayfly_domain::template::{Template, TemplateFault};
use dayfly_domain::time::Ttl;
use serde_json::{Map, Value};

use super::config::is_region;
use super::policy::{self, Escapes, LONGEST_POLICY};

/// AWS, AssumeRoleWithWebIdentity, DurationSeconds: at least 900.
pub(super) const SHORTEST_SESSION: Ttl = Ttl::minutes(15);

/// Every key of a target.
const KEYS: [&str; 5] = ["role_arn", "role_arns", "region", "revoke", "session_policy"];
/// Those that name roles and the region.
const NAMES: [&str; 3] = ["role_arn", "role_arns", "region"];
/// Most roles that one scope may stand for, by the choices of its parameters.
const MOST_VARIANTS: usize = 256;
/// Most roles of one pool.
const MOST_ROLES: usize = 32;

/// A rendered target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// The role, or a pool of roles that are alike: the first one with room for the session gives it.
    pub(super) roles: Vec<String>,
    /// When its sessions are denied, where they can be.
    pub(super) revoke: RevokeWhen,
    /// Where the workload uses the session; empty if the scope does not say.
    pub(super) region: String,
}

impl Target {
    /// Reads a rendered tree. The scope was checked when it was applied, so a fault here is the first and enough.
    pub(super) fn read(tree: &Value) -> Result<Self, TemplateFault> {
        let text = |key: &str| tree.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        if !tree["session_policy"].is_object() {
            return Err(fault("session_policy", "missing"));
        }
        let target = Self { roles: roles(tree)?, revoke: revoke(tree)?, region: text("region") };
        named(tree).into_iter().next().map_or(Ok(target), Err)
    }
}

/// Checks a scope without asking AWS: every fault, once.
pub(super) fn check(scope: &Scope) -> Vec<TemplateFault> {
    let Some(fields) = scope.target.tree().as_object() else {
        return vec![fault("", "expected a mapping with role_arn and session_policy")];
    };
    let mut faults: Vec<TemplateFault> = fields
        .keys()
        .filter(|key| !KEYS.contains(&key.as_str()))
        .map(|key| fault(key, &format!("unknown key; there are {}", KEYS.join(", "))))
        .collect();
    check_names(scope, &mut faults);
    faults.extend(revoke(scope.target.tree()).err());
    match fields.get("session_policy") {
        None => {
            faults.push(fault("session_policy", "missing: without it a session may do all that the role may"))
        }
        Some(tree) => {
            let escapes = if scope.leaves_behind.is_empty() { Escapes::Refused } else { Escapes::Declared };
            let found = policy::check(tree, escapes);
            if found.is_empty() {
                faults.extend(check_length(scope));
            }
            faults.extend(found);
        }
    }
    if scope.ttl.max < SHORTEST_SESSION {
        let problem =
            format!("AWS sessions last at least {SHORTEST_SESSION}: spec.ttl.max must not be below that");
        faults.push(fault("", &problem));
    }
    faults
}

/// Every role that the scope stands for.
pub(super) fn all_roles(scope: &Scope) -> Vec<String> {
    let mut all = Vec::new();
    for role in variants(scope).unwrap_or_default().iter().filter_map(|tree| roles(tree).ok()).flatten() {
        if !all.contains(&role) {
            all.push(role);
        }
    }
    all
}

/// When the scope's sessions are denied, where they can be.
pub(super) fn revoke_when(scope: &Scope) -> RevokeWhen {
    revoke(scope.target.tree()).unwrap_or_default()
}

fn revoke(tree: &Value) -> Result<RevokeWhen, TemplateFault> {
    let Some(value) = tree.get("revoke") else { return Ok(RevokeWhen::default()) };
    let text = value.as_str().unwrap_or_default();
    text.parse().map_err(|error: NotAWhen| fault("revoke", &error.to_string()))
}

/// The role under `role_arn`, or those under `role_arns`.
fn roles(tree: &Value) -> Result<Vec<String>, TemplateFault> {
    match (tree.get("role_arn"), tree.get("role_arns")) {
        (Some(_), Some(_)) => Err(fault("role_arns", "stands beside role_arn; name one role or several")),
        (one, None) => Ok(vec![one.and_then(Value::as_str).unwrap_or_default().to_owned()]),
        (None, Some(several)) => {
            let several: Vec<String> = several
                .as_array()
                .into_iter()
                .flatten()
                .map(|role| role.as_str().unwrap_or_default().to_owned())
                .collect();
            let distinct: BTreeSet<&String> = several.iter().collect();
            match (1..=MOST_ROLES).contains(&several.len()) && distinct.len() == several.len() {
                true => Ok(several),
                false => Err(fault("role_arns", &format!("expected 1 to {MOST_ROLES} roles, each once"))),
            }
        }
    }
}

/// Role and region: named by the platform team, at most chosen from its list.
fn check_names(scope: &Scope, faults: &mut Vec<TemplateFault>) {
    let before = faults.len();
    for key in NAMES {
        for name in scope.target.parameters_under(key) {
            let listed =
                matches!(scope.parameters.get(&name).map(|spec| &spec.kind), Some(ParameterType::Enum(_)));
            if !listed {
                faults.push(fault(key, &format!("parameter {name:?} must be of type enum here")));
            }
        }
    }
    if faults.len() > before {
        return;
    }
    match variants(scope) {
        Err(problem) => faults.push(fault("role_arn", &problem)),
        Ok(trees) => {
            for tree in trees {
                for found in named(&tree) {
                    if !faults.contains(&found) {
                        faults.push(found);
                    }
                }
            }
        }
    }
}

/// What is wrong with the names of roles and region.
fn named(tree: &Value) -> Vec<TemplateFault> {
    let roles = match roles(tree) {
        Ok(roles) => roles,
        Err(fault) => return vec![fault],
    };
    if !roles.iter().all(|role| is_role_arn(role)) {
        let key = if tree.get("role_arns").is_some() { "role_arns" } else { "role_arn" };
        return vec![fault(key, "expected arn:aws:iam::ACCOUNT:role/NAME, with an account of 12 digits")];
    }
    let sound = tree.get("region").is_none_or(|region| region.as_str().is_some_and(is_region));
    if sound { Vec::new() } else { vec![fault("region", "expected a region such as eu-central-1")] }
}

/// `arn:PARTITION:iam::ACCOUNT:role/PATH/NAME` (AWS, "IAM identifiers"). MinIO's roles have no account.
fn is_role_arn(text: &str) -> bool {
    let parts: Vec<&str> = text.split(':').collect();
    let ["arn", partition, "iam", "", account, resource] = parts[..] else { return false };
    let of_account = account.len() == 12 && account.bytes().all(|byte| byte.is_ascii_digit());
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"+=,.@_/-".contains(&byte);
    let name = resource.strip_prefix("role/").unwrap_or_default();
    (20..=2048).contains(&text.len())
        && match partition {
            "minio" => account.is_empty(),
            "aws" => of_account,
            // China, GovCloud and others.
            other => {
                of_account
                    && other.starts_with("aws-")
                    && other.bytes().all(|b| b.is_ascii_lowercase() || b == b'-')
            }
        }
        && name.bytes().all(legal)
        && !name.is_empty()
        && !name.ends_with('/')
}

/// Role and region for each choice of the enum values they hold.
fn variants(scope: &Scope) -> Result<Vec<Value>, String> {
    let names = NAMES.map(|key| scope.target.parameters_under(key));
    let mut choices = vec![Parameters::new()];
    for name in names.iter().flatten() {
        let Some(ParameterType::Enum(values)) = scope.parameters.get(name).map(|spec| &spec.kind) else {
            return Err(format!("parameter {name:?} must be of type enum here"));
        };
        let with = |choice: &Parameters, value: &String| {
            let mut choice = choice.clone();
            choice.insert(name.clone(), value.clone());
            choice
        };
        choices =
            choices.iter().flat_map(|choice| values.iter().map(move |value| with(choice, value))).collect();
        if choices.len() > MOST_VARIANTS {
            return Err(format!("stands for more than {MOST_VARIANTS} roles; write several scopes"));
        }
    }
    let tree = scope.target.tree().as_object().into_iter().flatten();
    let named: Map<String, Value> = tree
        .filter(|(key, _)| NAMES.contains(&key.as_str()))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    let template = Template::parse(Value::Object(named), &scope.parameters)
        .map_err(|faults| faults[0].problem.clone())?;
    choices.iter().map(|choice| template.render(choice).map_err(|changed| changed.to_string())).collect()
}

/// Whether the policy fits with the longest value of each parameter.
fn check_length(scope: &Scope) -> Option<TemplateFault> {
    let longest: Parameters =
        scope.parameters.iter().map(|(name, spec)| (name.clone(), longest(spec))).collect();
    let rendered = scope.target.render(&longest).ok()?;
    let length = rendered["session_policy"].to_string().chars().count();
    (length > LONGEST_POLICY).then(|| {
        let problem = format!(
            "has {length} characters with the longest values and AWS takes {LONGEST_POLICY}; shorten it, or bound a \
             parameter with a pattern such as [a-z0-9/-]{{1,64}}"
        );
        fault("session_policy", &problem)
    })
}

/// A stand-in as long as the longest value that the parameter takes.
fn longest(spec: &ParameterSpec) -> String {
    let of_type = match &spec.kind {
        ParameterType::Segment => MAX_SEGMENT,
        ParameterType::Path => MAX_PATH,
        ParameterType::Enum(values) => {
            return values.iter().max_by_key(|value| value.len()).cloned().unwrap_or_default();
        }
        ParameterType::Int { max, .. } => max.to_string().len(),
    };
    let of_pattern = spec.pattern.as_ref().and_then(|pattern| {
        // As the domain compiles it: bytes, not Unicode.
        let mut parser = regex_syntax::ParserBuilder::new().unicode(false).utf8(false).build();
        parser.parse(pattern.as_str()).ok()?.properties().maximum_len()
    });
    "x".repeat(of_type.min(of_pattern.unwrap_or(of_type)).max(1))
}

fn fault(path: &str, problem: &str) -> TemplateFault {
    TemplateFault { path: path.to_owned(), problem: problem.to_owned() }
}

/// Scopes for the tests of this provider.
#[cfg(test)]
pub(super) fn scope(
    parameters: std::collections::BTreeMap<String, ParameterSpec>,
    tree: Value,
    max: Ttl,
) -> Scope {
    Scope {
        name: "s3-train-read".to_owned(),
        description: String::new(),
        stages: Default::default(),
        target: Template::parse(tree, &parameters).expect("a template"),
        parameters,
        ttl: dayfly_domain::scope::TtlLimits { default: max, max },
        anchor: None,
        approval: None,
        leaves_behind: Vec::new(),
        limits: Default::default(),
        on_agent_loss: Default::default(),
        provider: super::NAME.to_owned(),
        digest: String::new(),
    }
}

#[cfg(test)]
mod tests;
