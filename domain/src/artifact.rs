//! `spec.target.artifact`: which actions on which artifact a scope allows. Nothing is handed out for such a scope; whoever
//! is about to load, call or query asks first, and is told.
//!
//! ```yaml
//! target:
//!   artifact:
//!     actions: [load-model]
//!     name: "models/{model}"
//!     digest: "sha256:{digest}"
//! ```

use std::fmt;

use serde_json::Value;
use thiserror::Error;

use crate::decision::Act;
use crate::parameter::{self, ParameterSpec, ParameterType, Parameters};
use crate::policy::Artifact;
use crate::scope::Scope;
use crate::template::TemplateFault;

/// The key under `spec.target`.
pub const PROVIDER: &str = "artifact";
/// Most actions of one scope.
pub const MAX_ACTIONS: usize = 16;
/// Longest action, in bytes.
pub const MAX_ACTION: usize = 64;
/// Longest name of an artifact, in bytes.
pub const MAX_NAME: usize = 512;

/// Every key of a target.
const KEYS: [&str; 3] = ["actions", "name", "digest"];
/// What policies are told where a credential is asked for.
const TAKEN: &str = "issue";
/// The one kind of digest.
const SHA256: &str = "sha256:";

/// An action or an artifact is not named in the one form there is.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum NotAnAct {
    /// The action.
    #[error("an action is lower-case words joined by dashes, at most {MAX_ACTION} bytes: load-model")]
    Action,
    /// The artifact's name.
    #[error(
        "an artifact's name is segments of letters, digits and . _ : + = - joined by /, none of them . or .., at most \
         {MAX_NAME} bytes: models/llama-3-8b"
    )]
    Name,
    /// The artifact's digest.
    #[error("a digest is sha256: and 64 lower-case hexadecimal digits")]
    Digest,
}

/// Checks the form of what a caller names.
pub fn check(action: &str, artifact: &Artifact) -> Result<(), NotAnAct> {
    if !is_action(action) {
        return Err(NotAnAct::Action);
    }
    if !is_name(&artifact.name) {
        return Err(NotAnAct::Name);
    }
    match artifact.digest.as_deref() {
        Some(digest) if !is_digest(digest) => Err(NotAnAct::Digest),
        Some(_) | None => Ok(()),
    }
}

/// Why a target does not allow an action on an artifact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misfit {
    /// It allows other actions.
    Action,
    /// It is for another artifact.
    Name,
    /// It is for another digest of the artifact, or one must be named.
    Digest,
    /// It is for credentials.
    Credentials,
    /// It cannot be read.
    Unreadable,
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Misfit::Action => "it allows other actions",
            Misfit::Name => "it is for another artifact",
            Misfit::Digest => "it is for another digest of the artifact",
            Misfit::Credentials => "it is for credentials",
            Misfit::Unreadable => "its target cannot be read",
        })
    }
}

/// Whether a rendered target allows the action on the artifact. A target without a digest takes any, and none.
pub fn fits(target: &Value, action: &str, artifact: &Artifact) -> Result<(), Misfit> {
    let actions = target["actions"].as_array().ok_or(Misfit::Unreadable)?;
    let name = target["name"].as_str().ok_or(Misfit::Unreadable)?;
    let digest = match &target["digest"] {
        Value::Null => None,
        Value::String(digest) => Some(digest.as_str()),
        _ => return Err(Misfit::Unreadable),
    };
    if !actions.iter().any(|allowed| allowed == action) {
        return Err(Misfit::Action);
    }
    if name != artifact.name {
        return Err(Misfit::Name);
    }
    if digest.is_some_and(|digest| artifact.digest.as_deref() != Some(digest)) {
        return Err(Misfit::Digest);
    }
    Ok(())
}

/// Every action that a scope allows with these values, each on its artifact. None of a scope for credentials.
pub fn acts(scope: &Scope, values: &Parameters) -> Vec<Act> {
    if scope.provider != PROVIDER || parameter::check(&scope.parameters, values).is_err() {
        return Vec::new();
    }
    let Ok(target) = scope.target.render(values) else { return Vec::new() };
    let text = |key: &str| target[key].as_str().map(str::to_owned);
    let artifact = Artifact { name: text("name").unwrap_or_default(), digest: text("digest") };
    let actions = target["actions"].as_array().into_iter().flatten().filter_map(Value::as_str);
    actions.map(|action| Act { action: action.to_owned(), artifact: artifact.clone() }).collect()
}

/// Whether a scope names the digest it is for, or takes any.
pub fn pins_digest(scope: &Scope) -> bool {
    !scope.target.tree()["digest"].is_null()
}

/// Every fault of a scope's target, with its path.
pub fn faults(scope: &Scope) -> Vec<TemplateFault> {
    let mut faults = Vec::new();
    let mut fault = |path: &str, problem: &dyn fmt::Display| {
        faults.push(TemplateFault { path: path.to_owned(), problem: problem.to_string() });
    };
    let Value::Object(fields) = scope.target.tree() else {
        fault("", &"expected a mapping with actions and name");
        return faults;
    };
    for key in fields.keys().filter(|key| !KEYS.contains(&key.as_str())) {
        fault(key, &format_args!("unknown key; there are {}", KEYS.join(", ")));
    }
    match fields.get("actions").and_then(Value::as_array) {
        Some(actions) if (1..=MAX_ACTIONS).contains(&actions.len()) => {
            for (index, action) in actions.iter().enumerate() {
                let path = format!("actions[{index}]");
                match action.as_str() {
                    Some(TAKEN) => {
                        fault(&path, &"policies know a credential's issue by this name; choose another")
                    }
                    Some(action) if is_action(action) => {}
                    _ => fault(&path, &NotAnAct::Action),
                }
                if actions[..index].contains(action) {
                    fault(&path, &"stands there twice");
                }
            }
        }
        _ => fault("actions", &format_args!("expected a list of 1 to {MAX_ACTIONS} actions")),
    }
    match fields.get("name") {
        // A parameter's own type bounds what takes its place.
        Some(Value::String(name)) if is_name(&name.replace(['{', '}'], "")) => {}
        Some(_) => fault("name", &NotAnAct::Name),
        None => fault("name", &"missing: what the actions are on"),
    }
    if let Some(problem) = fields.get("digest").and_then(|digest| digest_fault(digest, scope)) {
        fault("digest", &problem);
    }
    faults
}

fn digest_fault(digest: &Value, scope: &Scope) -> Option<String> {
    let text = digest.as_str().unwrap_or_default();
    let parameter = text.strip_prefix("sha256:{").and_then(|rest| rest.strip_suffix('}'));
    let can_be_hexadecimal = |spec: &ParameterSpec| match spec.kind {
        ParameterType::Segment | ParameterType::Enum(_) => true,
        ParameterType::Path | ParameterType::Int { .. } => false,
    };
    match parameter.map(|name| scope.parameters.get(name)) {
        None if is_digest(text) => None,
        None => Some(format!("{}, or sha256:{{parameter}}", NotAnAct::Digest)),
        Some(Some(spec)) if can_be_hexadecimal(spec) => None,
        Some(_) => Some("the parameter of a digest is a segment or an enum".to_owned()),
    }
}

/// Lower-case words joined by single dashes.
fn is_action(text: &str) -> bool {
    let is_word = |word: &str| {
        !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    text.len() <= MAX_ACTION
        && text.bytes().next().is_some_and(|first| first.is_ascii_lowercase())
        && text.split('-').all(is_word)
}

/// Segments joined by `/`. Whoever keeps artifacts in files may take the name for a path below a folder.
fn is_name(text: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"._:+=-".contains(&byte);
    let is_segment = |segment: &str| !matches!(segment, "" | "." | "..") && segment.bytes().all(legal);
    text.len() <= MAX_NAME && text.split('/').all(is_segment)
}

fn is_digest(text: &str) -> bool {
    let hexadecimal = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    text.strip_prefix(SHA256).is_some_and(|digits| digits.len() == 64 && digits.bytes().all(hexadecimal))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::document;

    const HEX: &str = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae";

    fn artifact(name: &str, digest: Option<&str>) -> Artifact {
        Artifact { name: name.to_owned(), digest: digest.map(str::to_owned) }
    }

    #[test]
    fn an_action_and_an_artifact_have_one_form() {
        let digest = format!("sha256:{HEX}");
        for action in ["load-model", "query", "call-tool2", "a"] {
            assert_eq!(check(action, &artifact("models/llama-3-8b", Some(&digest))), Ok(()), "{action}");
        }
        for action in
            ["", "-", "load-", "-load", "load--model", "Load", "load model", "2load", "lädt", "load_model"]
        {
            assert_eq!(check(action, &artifact("a", None)), Err(NotAnAct::Action), "{action:?}");
        }
        for name in ["a", "models/llama-3-8b", "index:papers", "registry.example/llm:1.0+q4", "a..b"] {
            assert_eq!(check("load", &artifact(name, None)), Ok(()), "{name}");
        }
        let long = "a".repeat(MAX_NAME + 1);
        for name in
            ["", "/a", "a/", "a//b", "a/../b", "..", "./a", "a b", "a@b", "a*", "{a}", "a\n", "ä", &long]
        {
            assert_eq!(check("load", &artifact(name, None)), Err(NotAnAct::Name), "{name:?}");
        }
        for digest in
            ["", HEX, "sha256:", &digest[..70], &format!("{digest}0"), &digest.to_uppercase(), "sha512:00"]
        {
            assert_eq!(check("load", &artifact("a", Some(digest))), Err(NotAnAct::Digest), "{digest:?}");
        }
    }

    #[test]
    fn a_target_fits_its_own_action_name_and_digest_alone() {
        let digest = format!("sha256:{HEX}");
        let other = digest.replace("2c", "2d");
        let pinned = json!({"actions": ["load-model", "verify-model"], "name": "models/a", "digest": digest});
        let open = json!({"actions": ["call-tool"], "name": "tools/search"});
        for (target, action, name, digest, told) in [
            (&pinned, "load-model", "models/a", Some(&digest), Ok(())),
            (&pinned, "verify-model", "models/a", Some(&digest), Ok(())),
            (&pinned, "load", "models/a", Some(&digest), Err(Misfit::Action)),
            (&pinned, "load-model", "models/a/b", Some(&digest), Err(Misfit::Name)),
            (&pinned, "load-model", "models", Some(&digest), Err(Misfit::Name)),
            (&pinned, "load-model", "models/a", Some(&other), Err(Misfit::Digest)),
            (&pinned, "load-model", "models/a", None, Err(Misfit::Digest)),
            (&open, "call-tool", "tools/search", None, Ok(())),
            (&open, "call-tool", "tools/search", Some(&other), Ok(())),
        ] {
            let asked = artifact(name, digest.map(String::as_str));
            assert_eq!(fits(target, action, &asked), told, "{action} {asked:?}");
        }
        for broken in [
            json!({}),
            json!({"actions": "load", "name": "a"}),
            json!({"actions": ["load"], "name": "a", "digest": 1}),
        ] {
            assert_eq!(fits(&broken, "load", &artifact("a", None)), Err(Misfit::Unreadable), "{broken}");
        }
    }

    fn told(target: &str) -> Vec<String> {
        let yaml = format!(
            "kind: Scope\nmetadata: {{name: s}}\nspec:\n  stages: [inference]\n  parameters:\n    model: {{type: segment}}\n    \
             digest: {{type: segment, pattern: '[0-9a-f]{{64}}'}}\n    path: {{type: path}}\n  target: {{artifact: {target}}}\n"
        );
        let (documents, faults) = document::parse(&yaml);
        assert_eq!(faults, [], "{target}");
        let rules = document::compile(1, &[], &documents).expect("no faults");
        let scope = rules.scope("s").expect("it was just written");
        super::faults(scope).into_iter().map(|fault| fault.path).collect()
    }

    #[test]
    fn every_fault_of_a_target_is_told_with_its_path() {
        let none: [&str; 0] = [];
        for good in [
            r#"{actions: [load-model], name: "models/{model}", digest: "sha256:{digest}"}"#,
            r#"{actions: [call-tool, list-tools], name: "tools/{path}"}"#,
            &format!(r#"{{actions: [load-model], name: models/a, digest: "sha256:{HEX}"}}"#),
        ] {
            assert_eq!(told(good), none, "{good}");
        }
        for (bad, paths) in [
            ("{}", vec!["actions", "name"]),
            ("[]", vec![""]),
            (r#"{actions: [], name: a}"#, vec!["actions"]),
            (r#"{actions: load, name: a}"#, vec!["actions"]),
            (
                r#"{actions: [issue, Load, load, load, 7, "{model}"], name: a}"#,
                vec!["actions[0]", "actions[1]", "actions[3]", "actions[4]", "actions[5]"],
            ),
            (r#"{actions: [load], name: "/a"}"#, vec!["name"]),
            (r#"{actions: [load], name: "models/*"}"#, vec!["name"]),
            (r#"{actions: [load], name: [a]}"#, vec!["name"]),
            (r#"{actions: [load], name: a, digest: "sha256:00"}"#, vec!["digest"]),
            (r#"{actions: [load], name: a, digest: "{digest}"}"#, vec!["digest"]),
            (r#"{actions: [load], name: a, digest: "sha256:{path}"}"#, vec!["digest"]),
            (r#"{actions: [load], name: a, digest: 7}"#, vec!["digest"]),
            (r#"{action: [load], actions: [load], name: a}"#, vec!["action"]),
        ] {
            assert_eq!(told(bad), paths, "{bad}");
        }
        let many: Vec<String> = (0..17).map(|n| format!("a{n}")).collect();
        assert_eq!(told(&format!("{{actions: [{}], name: a}}", many.join(", "))), ["actions"]);
    }
}
