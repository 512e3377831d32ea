//! Asks OPA and both engines, and compares.

use std::collections::BTreeMap;

use dayfly_domain::policy::PolicySource;
use dayfly_policy::{PolicySet, RawDecisions};
use harness::opa::{Answer, Question};
use harness::{Opa, Scratch};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use serde_json::Value;

/// The same in every run, so that a failure comes back; `DAYFLY_TEST_SEED` takes another.
pub fn seed() -> u64 {
    std::env::var("DAYFLY_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20_261_121)
}

/// Random choices that `purpose` does not share with other tests.
pub fn dice(purpose: u64) -> StdRng {
    StdRng::seed_from_u64(seed() ^ (purpose << 32))
}

/// A policy of one module, with a test that passes.
pub fn policy(name: &str, rules: &str) -> PolicySource {
    let package = format!("dayfly.{name}");
    PolicySource {
        name: name.to_owned(),
        scopes: None,
        modules: BTreeMap::from([
            (
                "policy.rego".to_owned(),
                format!("package {package}\n\nimport future.keywords.not\n\n{rules}\n"),
            ),
            ("policy_test.rego".to_owned(), format!("package {package}_test\n\ntest_nothing if true\n")),
        ]),
        digest: String::new(),
    }
}

/// Loads a policy, or says why not.
pub fn load(source: &PolicySource) -> Result<PolicySet, String> {
    PolicySet::load(std::slice::from_ref(source))
        .map_err(|faults| faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
}

/// Asks everybody for the decision of each policy about each of its inputs, and tells how they differ. Also how many
/// decisions had a value.
pub async fn differences(asked: &[(PolicySource, PolicySet, Vec<Value>)]) -> (Vec<String>, usize) {
    let (opa, scratch) = (Opa::find().unwrap(), Scratch::new().unwrap());
    let mut questions = Vec::new();
    for (source, _, inputs) in asked {
        let file =
            scratch.file(&format!("{}.rego", source.name), 0o644, &source.modules["policy.rego"]).unwrap();
        questions.push(([file], format!("data.{}.decision", source.package()), inputs));
    }
    let questions: Vec<_> =
        questions.iter().map(|(policies, query, inputs)| Question { policies, query, inputs }).collect();
    let answers = opa.answers_of(&questions).await.unwrap();
    let (mut found, mut values) = (Vec::new(), 0);
    for ((source, set, inputs), answers) in asked.iter().zip(answers) {
        for (input, answer) in inputs.iter().zip(answers) {
            values += usize::from(matches!(answer, Answer::Value(_)));
            let raw = set.raw_decisions(&source.name, input).unwrap();
            if let Some(difference) = difference(&answer, &raw) {
                let rules = &source.modules["policy.rego"];
                found.push(format!("seed {}: {difference}\ninput {input}\n{rules}", seed()));
                break;
            }
        }
    }
    (found, values)
}

/// How the engines' words differ from OPA's. What is undefined and what fails deny alike; a type that a builtin does not
/// take fails in our engines, where OPA makes it undefined.
pub fn difference(opa: &Answer, raw: &RawDecisions) -> Option<String> {
    let same = |ours: &Result<Option<Value>, String>| match (opa, ours) {
        (Answer::Value(theirs), Ok(Some(ours))) => alike(theirs, ours),
        (Answer::Undefined | Answer::Error(_), Ok(None) | Err(_)) => true,
        (Answer::Value(_), _) | (_, Ok(Some(_))) => false,
    };
    let agreed = same(&raw.machine) && same(&raw.interpreter);
    (!agreed).then(|| format!("OPA says {opa:?}, we say {raw:?}"))
}

/// Whether two values are one. OPA writes 1.0 where our engines write 1.
fn alike(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64().is_some_and(|a| b.as_f64() == Some(a)),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| alike(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| alike(a, b)))
        }
        _ => a == b,
    }
}

/// Drops the policies that OPA's compiler does not take. It knows types that ours does not: nobody could test those.
pub async fn leave_out_what_opa_refuses(asked: &mut Vec<(PolicySource, PolicySet, Vec<Value>)>) {
    let (opa, scratch) = (Opa::find().unwrap(), Scratch::new().unwrap());
    let files: Vec<_> = asked
        .iter()
        .map(|(source, ..)| {
            scratch.file(&format!("{}.rego", source.name), 0o644, &source.modules["policy.rego"]).unwrap()
        })
        .collect();
    let refused = opa.refused(&files).await.unwrap();
    let mut files = files.into_iter();
    asked.retain(|_| files.next().is_some_and(|file| !refused.contains(&file)));
}
