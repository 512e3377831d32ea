//! The policies in `deploy/documents/policies`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use dayfly_domain::policy::PolicySource;
use dayfly_policy::PolicySet;
use harness::Opa;
use harness::opa::{Question, rego_files};

use crate::ask::{dice, difference, load, seed};
use crate::inputs::request;

/// Inputs of each example.
const INPUTS: usize = 10_000;

struct Example {
    files: Vec<PathBuf>,
    source: PolicySource,
    set: PolicySet,
}

fn examples() -> Vec<Example> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/documents/policies");
    let mut folders: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.retain(|folder| folder.is_dir());
    folders.sort();
    let examples: Vec<Example> = folders.iter().map(|folder| example(folder)).collect();
    assert!(!examples.is_empty(), "there are no examples");
    examples
}

fn example(folder: &Path) -> Example {
    let files = rego_files(folder).unwrap();
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    let modules = files.iter().map(|file| (name(file), fs::read_to_string(file).unwrap()));
    let modules: BTreeMap<_, _> = modules.collect();
    let source = PolicySource { name: name(folder), scopes: None, modules, digest: String::new() };
    let set = load(&source).unwrap_or_else(|faults| panic!("{}: {faults}", source.name));
    Example { files, source, set }
}

#[tokio::test]
async fn each_example_passes_opas_check_its_tests_and_its_format() {
    let opa = Opa::find().unwrap();
    for Example { files, source, .. } in examples() {
        opa.check(&files).await.unwrap();
        let tests = opa.test(&files).await.unwrap();
        let failed: Vec<_> =
            tests.iter().filter(|test| test.fail || test.skip || test.error.is_some()).collect();
        assert!(failed.is_empty(), "{}: {failed:?}", source.name);
        let here: usize = source.modules.values().map(|text| text.matches("\ntest_").count()).sum();
        assert_eq!(tests.len(), here, "{}: OPA runs as many tests as we do", source.name);
        assert_eq!(opa.unformatted(&files).await.unwrap(), [] as [PathBuf; 0], "{}: opa fmt -w", source.name);
    }
}

#[tokio::test]
async fn opa_and_both_engines_agree_on_ten_thousand_inputs_of_each_example() {
    let opa = Opa::find().unwrap();
    let mut dice = dice(5);
    for Example { files, source, set } in examples() {
        let rules: Vec<PathBuf> =
            files.into_iter().filter(|file| !PolicySource::is_test(file.to_str().unwrap())).collect();
        let inputs: Vec<_> = (0..INPUTS).map(|_| request(&mut dice)).collect();
        let query = format!("data.{}.decision", source.package());
        let question = Question { policies: &rules, query: &query, inputs: &inputs };
        let answers = opa.answers_of(&[question]).await.unwrap().remove(0);
        for (input, answer) in inputs.iter().zip(&answers) {
            let raw = set.raw_decisions(&source.name, input).unwrap();
            assert!(raw.machine.is_ok() && raw.interpreter.is_ok(), "{}: {raw:?} for {input}", source.name);
            if let Some(difference) = difference(answer, &raw) {
                panic!("seed {}: {}: {difference}\ninput {input}", seed(), source.name);
            }
        }
        each_rule_matched_and_missed(&source, &set, &inputs);
    }
}

/// Each definition of an example held for some input and did not for another: the ten thousand were about it.
fn each_rule_matched_and_missed(source: &PolicySource, set: &PolicySet, inputs: &[serde_json::Value]) {
    let mut seen: BTreeMap<String, BTreeSet<bool>> = BTreeMap::new();
    for input in inputs {
        let steps = set.explain_json(input).1.into_iter().filter(|step| is_conditional(source, &step.rule));
        for step in steps {
            seen.entry(step.rule).or_default().insert(step.matched);
        }
        if seen.values().all(|matched| matched.len() == 2) {
            return;
        }
    }
    let one_sided: Vec<_> = seen.iter().filter(|(_, matched)| matched.len() < 2).collect();
    panic!("seed {}: {}: {one_sided:?}", seed(), source.name);
}

/// Whether a definition, as explanations name it (`policy.rego:17 reasons`), holds only if something does.
fn is_conditional(source: &PolicySource, rule: &str) -> bool {
    let place = rule.split_once(' ').and_then(|(place, _)| place.split_once(':'));
    let Some((file, line)) = place else { return false };
    let text = source.modules[file].lines().skip(line.parse::<usize>().unwrap() - 1);
    text.take_while(|line| !line.is_empty()).any(|line| line.contains(" if ") || line.ends_with(" if"))
}
