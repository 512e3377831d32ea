//! Inputs made at random, of the shape that every request has.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use serde_json::{Map, Value, json};

const STAGES: [&str; 6] = ["training", "inference", "retrieval", "tool", "admin", "node"];

/// What one of these may be.
pub fn one<'a>(dice: &mut StdRng, choices: &[&'a str]) -> &'a str {
    choices.choose(dice).expect("no choices are given nowhere")
}

/// A request. Few values for each field, so that rules match and miss often.
pub fn request(dice: &mut StdRng) -> Value {
    let direct = dice.random_bool(0.2);
    let chain: Vec<Value> = (0..dice.random_range(1..5)).map(|_| link(dice)).collect();
    let opened = 1_795_262_400 + dice.random_range(0..30 * 86_400);
    let last = chain.last().expect("one or more").clone();
    let mut request = json!({
        "proven": {
            "spiffe_id": last["spiffe_id"],
            "trust_domain": "example.org",
            "stage": last["stage"],
            "via": if direct { "direct" } else { "agent" },
            "scope": one(dice, &["s3-train-read", "kb-read", "s3-train-write", "search"]),
            "provider": one(dice, &["aws", "vault", "token"]),
            "action": one(dice, &["issue", "issue", "load-model", "call-tool", "query-index"]),
            "task": {
                "id": format!("task_{}", dice.random_range(0..99)),
                "session": "task_0",
                "depth": chain.len() - 1,
                "opened_at": opened,
                "deadline": opened + dice.random_range(60..50_000),
            },
            "chain": chain,
            "now": opened + dice.random_range(0..20_000),
        },
        "observed": {
            "anchor": if direct { "stream" } else { one(dice, &["cgroup_owned", "process"]) },
            "attested_by": if direct { "stream" } else { one(dice, &["pidfd", "peercred"]) },
            "cgroup_id": dice.random_range(0..3),
            "boot_id": one(dice, &["", "b3c7"]),
        },
        "claimed": {
            "intent": text(dice),
            "labels": texts(dice, &["team", "ticket", "priority", "environment"]),
            "parameters": texts(dice, &["dataset", "index", "region"]),
            "ttl": one_of(dice, &[60, 300, 900, 3_600, 43_200]),
        },
    });
    if !direct {
        request["observed"]["node"] =
            json!(format!("spiffe://example.org/node/{}", one(dice, &["n1", "n2", "gpu-1"])));
    }
    if request["proven"]["action"] != "issue" {
        request["claimed"]["artifact"] = artifact(dice);
    }
    request
}

fn link(dice: &mut StdRng) -> Value {
    let stage = one(dice, &STAGES);
    json!({ "spiffe_id": format!("spiffe://example.org/{stage}/{}", one(dice, &["a", "b"])), "stage": stage })
}

fn artifact(dice: &mut StdRng) -> Value {
    let name =
        one(dice, &["models/llama-3-8b", "models/private/scorer", "tools/web-search", "indexes/papers"]);
    let mut artifact = json!({ "name": name });
    if dice.random_bool(0.5) {
        artifact["digest"] = json!(format!("sha256:{}", one(dice, &["a", "0"]).repeat(64)));
    }
    artifact
}

fn texts(dice: &mut StdRng, keys: &[&str]) -> Value {
    let mut texts = Map::new();
    for key in keys {
        if dice.random_bool(0.6) {
            texts.insert((*key).to_owned(), text(dice).into());
        }
    }
    texts.into()
}

fn one_of(dice: &mut StdRng, choices: &[u64]) -> u64 {
    *choices.choose(dice).expect("choices")
}

/// A text that workloads may claim: plain, empty, foreign, or of letters that engines may take for something.
pub fn text(dice: &mut StdRng) -> String {
    const PLAIN: [&str; 12] = [
        "a",
        "b",
        "ab",
        "corpus-7",
        "corpus-8",
        "red",
        "blue",
        "CHG-1234",
        "CHG-12",
        "prod",
        "eu-west-1",
        "search papers",
    ];
    const ODD: [&str; 30] = [
        "", " ", "a b", " a", "a ", "\t", "a\nb", "ä", "ß", "İ", "ΑΣ", "e\u{301}", "\u{212a}", "😀",
        "\u{a0}", "\u{85}", "\u{200b}", "\u{2028}", "\u{feff}", "*", "a*", "%s", "%!s", "$1", "\\", "\"",
        "..", "a//b", "1", "\u{1f}",
    ];
    match dice.random_range(0..10) {
        0..7 => one(dice, &PLAIN).to_owned(),
        7..9 => one(dice, &ODD).to_owned(),
        _ => format!("{}{}", one(dice, &ODD), one(dice, &PLAIN)),
    }
}

/// Any value: for what a builtin does with arguments it was not made for.
pub fn anything(dice: &mut StdRng, depth: usize) -> Value {
    match dice.random_range(0..if depth > 2 { 8 } else { 11 }) {
        0..4 => text(dice).into(),
        4..7 => whole(dice).into(),
        7 => [json!(null), json!(true), json!(false)].choose(dice).expect("three").clone(),
        8 | 9 => list(dice, depth),
        _ => (0..dice.random_range(0..4))
            .map(|_| (text(dice), anything(dice, depth + 1)))
            .collect::<Map<_, _>>()
            .into(),
    }
}

/// A list of anything.
pub fn list(dice: &mut StdRng, depth: usize) -> Value {
    (0..dice.random_range(0..5)).map(|_| anything(dice, depth + 1)).collect()
}

/// A whole number, at the edges often.
pub fn whole(dice: &mut StdRng) -> i64 {
    match dice.random_range(0..3) {
        0 => *[0, 1, -1, 2, 3, 7, 10, 60, 100, 3_600, 1_795_262_400, -1_795_262_400]
            .choose(dice)
            .expect("some"),
        1 => dice.random_range(-10..10),
        _ => dice.random_range(-2_000_000_000..2_000_000_000),
    }
}
