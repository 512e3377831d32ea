//! SPIRE's registration entries, as `spire-server entry show -output json` prints them: identities that are coarser than
//! they look.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::{Finding, Severity};

/// Largest dump that is read, in bytes.
pub const MAX_ENTRIES_INPUT: usize = 64 << 20;

/// Programs that run other programs' text: their path says nothing about what they run.
const INTERPRETERS: [&str; 14] = [
    "python", "pypy", "node", "nodejs", "deno", "bun", "ruby", "perl", "php", "java", "bash", "sh", "dash",
    "lua",
];

/// Segments that tell stages apart where paths are made of them.
const STAGE_WORDS: [&str; 17] = [
    "train",
    "training",
    "infer",
    "inference",
    "serve",
    "serving",
    "retrieve",
    "retrieval",
    "rag",
    "tool",
    "tools",
    "agent",
    "agents",
    "admin",
    "node",
    "eval",
    "index",
];

#[derive(Deserialize)]
struct Dump {
    entries: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    id: String,
    spiffe_id: Id,
    parent_id: Option<Id>,
    #[serde(default)]
    selectors: Vec<Selector>,
}

#[derive(Deserialize, PartialEq, Eq, PartialOrd, Ord)]
struct Id {
    trust_domain: String,
    #[serde(default)]
    path: String,
}

#[derive(Deserialize)]
struct Selector {
    r#type: String,
    value: String,
}

/// Everything to look at in a dump of entries, or why it cannot be read.
pub fn check_entries(dump: &str) -> Result<Vec<Finding>, String> {
    if dump.len() > MAX_ENTRIES_INPUT {
        return Err(format!("the dump holds more than {MAX_ENTRIES_INPUT} bytes"));
    }
    let Dump { entries } = serde_json::from_str(dump).map_err(|error| error.to_string())?;
    let mut findings: Vec<Finding> = entries.iter().filter_map(interpreter).collect();
    let mut by_id: BTreeMap<String, BTreeSet<BTreeSet<String>>> = BTreeMap::new();
    for entry in &entries {
        let selectors = entry.selectors.iter().map(|one| format!("{}:{}", one.r#type, one.value));
        let id = format!("spiffe://{}{}", entry.spiffe_id.trust_domain, entry.spiffe_id.path);
        by_id.entry(id).or_default().insert(selectors.collect());
    }
    // The same selectors below several nodes are one workload on several machines.
    findings.extend(by_id.into_iter().filter(|(_, sets)| sets.len() > 1).map(|(id, sets)| Finding {
        code: "identity-shared",
        severity: Severity::Warning,
        document: format!("Entry/{id}"),
        path: "selectors".to_owned(),
        what: format!("{} different sets of selectors lead to it", sets.len()),
        why: "several workloads are one identity: what one may have, all have, and records cannot tell them apart",
        next: "give each workload a SPIFFE ID of its own",
    }));
    findings.extend(told_apart_by_stage_alone(&entries));
    Ok(findings)
}

/// Entries of one node with the same selectors, whose paths differ in one segment that names a stage: every process they
/// match has both identities, and with them both stages.
fn told_apart_by_stage_alone(entries: &[Entry]) -> Vec<Finding> {
    let mut alike: BTreeMap<(Option<&Id>, BTreeSet<String>), Vec<&Entry>> = BTreeMap::new();
    for entry in entries {
        let selectors = entry.selectors.iter().map(|one| format!("{}:{}", one.r#type, one.value));
        alike.entry((entry.parent_id.as_ref(), selectors.collect())).or_default().push(entry);
    }
    let twin = |(entry, others): (&Entry, &[&Entry])| {
        let other = others.iter().find(|other| differ_in_a_stage(&entry.spiffe_id, &other.spiffe_id))?;
        Some(Finding {
            code: "stage-by-path-only",
            severity: Severity::Error,
            document: format!("Entry/{}", entry.id),
            path: "selectors".to_owned(),
            what: format!(
                "the same processes are {} and {} (entry {})",
                shown(&entry.spiffe_id),
                shown(&other.spiffe_id),
                other.id
            ),
            why: "a process picks the stage it wants to be: what one stage may not have, it gets as the other",
            next: "tell them apart by selectors: a user, a systemd unit, a container image or a job for each stage",
        })
    };
    let groups = alike.into_values();
    groups
        .flat_map(|group| {
            (0..group.len()).filter_map(|at| twin((group[at], &group[at + 1..]))).collect::<Vec<_>>()
        })
        .collect()
}

fn differ_in_a_stage(one: &Id, other: &Id) -> bool {
    let (a, b): (Vec<&str>, Vec<&str>) = (one.path.split('/').collect(), other.path.split('/').collect());
    let differing: Vec<(&str, &str)> =
        a.iter().copied().zip(b.iter().copied()).filter(|(a, b)| a != b).collect();
    let names_a_stage = |segment: &str| STAGE_WORDS.contains(&segment);
    one.trust_domain == other.trust_domain
        && a.len() == b.len()
        && matches!(differing[..], [(a, b)] if names_a_stage(a) || names_a_stage(b))
}

fn shown(id: &Id) -> String {
    format!("spiffe://{}{}", id.trust_domain, id.path)
}

/// An identity that every program of one interpreter has.
fn interpreter(entry: &Entry) -> Option<Finding> {
    let of_program = |one: &Selector| {
        one.r#type == "unix" && (one.value.starts_with("path:") || one.value.starts_with("sha256:"))
    };
    let path = entry.selectors.iter().find_map(|one| one.value.strip_prefix("path:"))?;
    let name = path.rsplit('/').next().unwrap_or(path);
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.' || c == '-');
    let alone = entry.selectors.iter().all(of_program) && INTERPRETERS.contains(&stem);
    alone.then(|| Finding {
        code: "interpreter-by-path",
        severity: Severity::Error,
        document: format!("Entry/{}", entry.id),
        path: "selectors".to_owned(),
        what: format!(
            "spiffe://{}{} is told apart by the path of the interpreter {path} alone",
            entry.spiffe_id.trust_domain, entry.spiffe_id.path
        ),
        why: "every script that anybody runs with it has this identity",
        next: "add a selector of the user, the systemd unit, the container image or the job",
    })
}
