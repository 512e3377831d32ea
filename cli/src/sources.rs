//! What `apply -f` takes: a file, standard input, or a folder of YAML files and of policies in Rego.
//!
//! A folder that holds `*.rego` files is one policy, named as the folder; `policy.yaml` beside them may name its scopes and
//! labels. So the files are those that `opa test` and `opa fmt` work on. Any other folder is looked through: its YAML files
//! are documents, its folders are looked through in turn.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};

use dayfly_domain::document::MAX_INPUT;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::failure::Failure;

/// What says more of a policy than its Rego does.
pub const ABOUT: &str = "policy.yaml";
/// How deep folders are looked through.
const MAX_DEPTH: usize = 8;

/// One file of documents, or one folder that is a policy.
#[derive(Debug)]
pub struct Source {
    /// The policy's name; the file's otherwise.
    pub name: String,
    /// Documents as YAML.
    pub yaml: String,
    is_policy: bool,
}

/// `policy.yaml`.
#[derive(Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct About {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    scopes: Option<BTreeSet<String>>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    labels: BTreeMap<String, String>,
}

/// Everything at a path as one input of documents.
pub fn read(path: &Path) -> Result<String, Failure> {
    if !path.is_dir() {
        return file(path);
    }
    let mut sources = Vec::new();
    folder(path, 0, &mut sources)?;
    if sources.is_empty() {
        let failure = Failure::new(format!("{} holds no documents", path.display()));
        return Err(failure.next("name a folder of *.yaml files, or of policies"));
    }
    let yaml = sources.iter().map(|source| source.yaml.trim_start_matches("---\n")).collect::<Vec<_>>();
    small(path, yaml.join("\n---\n"))
}

/// The policies at a path, each as one document.
pub fn policies(path: &Path) -> Result<Vec<Source>, Failure> {
    let mut sources = Vec::new();
    folder(path, 0, &mut sources)?;
    sources.retain(|source| source.is_policy);
    Ok(sources)
}

/// `policy.yaml` of a policy, if it says anything.
pub fn about(scopes: Option<&BTreeSet<String>>, labels: &BTreeMap<String, String>) -> Option<String> {
    let about = About { scopes: scopes.cloned(), labels: labels.clone() };
    let says = about.scopes.is_some() || !about.labels.is_empty();
    says.then(|| serde_yaml_ng::to_string(&about).unwrap_or_default())
}

fn folder(path: &Path, depth: usize, sources: &mut Vec<Source>) -> Result<(), Failure> {
    if depth > MAX_DEPTH {
        return Err(Failure::new(format!("{} stands more than {MAX_DEPTH} folders deep", path.display())));
    }
    let cannot = |error| Failure::new(format!("cannot read {}", path.display())).because(&error);
    let entries = std::fs::read_dir(path).map_err(cannot)?;
    let paths: Result<Vec<PathBuf>, _> = entries.map(|entry| entry.map(|entry| entry.path())).collect();
    let mut paths = paths.map_err(cannot)?;
    paths.retain(|path| !name_of(path).starts_with('.'));
    paths.sort();
    let is_rego = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "rego");
    if paths.iter().any(is_rego) {
        sources.push(policy(path, &paths)?);
        return Ok(());
    }
    for path in paths {
        if path.is_dir() {
            folder(&path, depth + 1, sources)?;
        } else if path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml") {
            sources.push(Source { name: name_of(&path), yaml: file(&path)?, is_policy: false });
        }
    }
    Ok(())
}

fn policy(folder: &Path, paths: &[PathBuf]) -> Result<Source, Failure> {
    let whole = folder
        .canonicalize()
        .map_err(|error| Failure::new(format!("cannot read {}", folder.display())).because(&error))?;
    let name = name_of(&whole);
    let mut about = About::default();
    let mut modules = BTreeMap::new();
    for path in paths {
        match (name_of(path), path.extension().and_then(|extension| extension.to_str())) {
            (file_name, _) if file_name == ABOUT => {
                about = serde_yaml_ng::from_str(&file(path)?).map_err(|error| {
                    let next = "it holds `scopes`, a list of names, and `labels`, and nothing else";
                    Failure::new(format!("{} is malformed", path.display())).because(&error).next(next)
                })?;
            }
            (file_name, Some("rego")) => {
                modules.insert(file_name, file(path)?);
            }
            (_, Some("yaml" | "yml")) => {
                let failure = Failure::new(format!("{} stands among Rego modules", path.display()));
                return Err(failure.next(format!("only {ABOUT} may: put documents into another folder")));
            }
            _ => {}
        }
    }
    let mut document = json!({"kind": "Policy", "metadata": {"name": name}, "spec": {"modules": modules}});
    if let Some(scopes) = about.scopes {
        document["spec"]["scopes"] = json!(scopes);
    }
    if !about.labels.is_empty() {
        document["metadata"]["labels"] = json!(about.labels);
    }
    // JSON is YAML, and needs no care for what stands in a module.
    Ok(Source { name, yaml: document.to_string(), is_policy: true })
}

fn file(path: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    let most = u64::try_from(MAX_INPUT).unwrap_or(u64::MAX);
    let limited = |reader: &mut dyn Read, text: &mut String| reader.take(most + 1).read_to_string(text);
    let read = if path == Path::new("-") {
        limited(&mut std::io::stdin().lock(), &mut text)
    } else {
        std::fs::File::open(path).and_then(|mut file| limited(&mut file, &mut text))
    };
    read.map_err(|error| Failure::new(format!("cannot read {}", path.display())).because(&error))?;
    small(path, text)
}

fn small(path: &Path, text: String) -> Result<String, Failure> {
    if text.len() > MAX_INPUT {
        let failure = Failure::new(format!("{} holds more than {MAX_INPUT} bytes", path.display()));
        return Err(failure.next("apply it in parts"));
    }
    Ok(text)
}

fn name_of(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed step fails the test")]
mod tests {
    use dayfly_domain::document::{Kind, parse, read_policy};

    use super::*;

    #[test]
    fn a_folder_is_its_documents_and_its_policies() {
        let root = tempfile::tempdir().unwrap();
        let policy = root.path().join("policies/short-lives");
        std::fs::create_dir_all(&policy).unwrap();
        let rego = "package dayfly.short_lives\n\n# ---\ndecision := {\"allow\": true}\n";
        std::fs::write(policy.join("lives.rego"), rego).unwrap();
        std::fs::write(policy.join("lives_test.rego"), "package dayfly.short_lives_test\n").unwrap();
        std::fs::write(policy.join(ABOUT), "scopes: [a-scope]\nlabels: {team: ml}\n").unwrap();
        std::fs::write(policy.join("README.md"), "for people").unwrap();
        let stage = "---\nkind: Stage\nmetadata: {name: tool}\nspec: {patterns: [\"spiffe://d/x\"]}\n";
        std::fs::write(root.path().join("stage.yaml"), stage).unwrap();
        std::fs::write(root.path().join(".hidden.yaml"), "not: {read").unwrap();

        let (documents, faults) = parse(&read(root.path()).unwrap());
        assert_eq!(faults, []);
        let kinds: Vec<Kind> = documents.iter().map(|(_, document)| document.key.kind).collect();
        assert_eq!(kinds, [Kind::Policy, Kind::Stage]);
        let source = read_policy(1, &documents[0].1).unwrap();
        assert_eq!((source.name.as_str(), source.modules["lives.rego"].as_str()), ("short-lives", rego));
        assert_eq!(documents[0].1.labels["team"], "ml");
        let said = about(source.scopes.as_ref(), &documents[0].1.labels).unwrap();
        assert_eq!(said, "scopes:\n- a-scope\nlabels:\n  team: ml\n");
        assert_eq!(policies(&policy).unwrap().len(), 1);

        std::fs::write(policy.join("more.yaml"), stage).unwrap();
        assert!(read(root.path()).is_err(), "documents among Rego modules are not passed over");
        std::fs::remove_file(policy.join("more.yaml")).unwrap();
        std::fs::write(policy.join(ABOUT), "scope: [a-scope]\n").unwrap();
        assert!(read(root.path()).is_err(), "a policy for too many scopes is not made of a typing error");
    }
}
