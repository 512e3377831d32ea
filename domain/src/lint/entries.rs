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

#[derive(Deserialize)]
struct Dump {
    entries: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    id: String,
    spiffe_id: Id,
    #[serde(default)]
    selectors: Vec<Selector>,
}

#[derive(Deserialize)]
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
    Ok(findings)
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
