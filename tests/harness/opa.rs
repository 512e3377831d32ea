//! OPA, the reference implementation of Rego: what it says of a policy is what the policy means.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::parts;
use crate::process::Program;
use crate::scratch::Scratch;

/// The command `opa`. It keeps nothing between two questions.
#[derive(Debug, Clone)]
pub struct Opa {
    path: PathBuf,
}

/// What OPA says of one input.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// The value, with sets as sorted arrays.
    Value(Value),
    /// No rule gave a value, or a builtin could not work with what it was given.
    Undefined,
    /// Evaluation stopped: two rules gave different values, say.
    Error(String),
}

/// One `test_*` rule.
#[derive(Debug, Deserialize)]
pub struct Tested {
    /// Its package, as `data.NAME`.
    pub package: String,
    /// Its name.
    pub name: String,
    /// Whether it is false or undefined.
    #[serde(default)]
    pub fail: bool,
    /// Whether it is named `todo_test_*` and was not run.
    #[serde(default)]
    pub skip: bool,
    /// Why it could not be evaluated.
    #[serde(default)]
    pub error: Option<Value>,
}

impl Opa {
    /// Finds it.
    ///
    /// # Errors
    /// When it was not built.
    pub fn find() -> anyhow::Result<Self> {
        Ok(Self { path: parts::peer("opa", "opa")? })
    }

    /// What `query` is under each input, in their order: thousands of inputs in one process.
    ///
    /// # Errors
    /// When OPA cannot read the policies.
    pub async fn answers(
        &self,
        policies: &[PathBuf],
        query: &str,
        inputs: &[Value],
    ) -> anyhow::Result<Vec<Answer>> {
        self.check(policies).await?;
        let mut answers = vec![None; inputs.len()];
        // One error ends the whole evaluation, so halve until it stands alone.
        let mut open: Vec<_> = std::iter::once(0..inputs.len()).filter(|all| !all.is_empty()).collect();
        while let Some(part) = open.pop() {
            match self.batch(policies, query, &inputs[part.clone()]).await? {
                Ok(batch) => answers.splice(part, batch.into_iter().map(Some)).for_each(drop),
                Err(error) if part.len() == 1 => answers[part.start] = Some(Answer::Error(error)),
                Err(_) => {
                    let middle = part.start.midpoint(part.end);
                    open.extend([part.start..middle, middle..part.end]);
                }
            }
        }
        answers.into_iter().map(|answer| answer.context("OPA left an input out")).collect()
    }

    async fn batch(
        &self,
        policies: &[PathBuf],
        query: &str,
        inputs: &[Value],
    ) -> anyhow::Result<Result<Vec<Answer>, String>> {
        let scratch = Scratch::new()?;
        let data = json!({ "oracle_inputs": inputs });
        let data = scratch.file("inputs.json", 0o644, serde_json::to_vec(&data)?)?;
        let each = format!(
            "[{{\"at\": at, \"got\": [got | got := {query} with input as asked]}} | \
             some at, asked in data.oracle_inputs]"
        );
        let program = self.over("eval", policies, "--data").arg("--data").arg(data);
        let finished = program.args(["--format", "json", &each]).finish().await?;
        let printed: Evaluated = serde_json::from_str(&finished.stdout)
            .with_context(|| format!("OPA printed {:?}{:?}", finished.stdout, finished.stderr))?;
        if let Some(error) = printed.errors.first() {
            return Ok(Err(error.to_string()));
        }
        let value = printed.result.into_iter().flat_map(|result| result.expressions).next();
        let value = value.context("OPA gave no result")?.value;
        ensure!(value.len() == inputs.len(), "{} answers to {} inputs", value.len(), inputs.len());
        let mut answers = Vec::with_capacity(inputs.len());
        for (at, Asked { at: given, mut got }) in value.into_iter().enumerate() {
            ensure!(at == given, "OPA answered out of order: {given} at {at}");
            answers.push(got.pop().map_or(Answer::Undefined, Answer::Value));
        }
        Ok(Ok(answers))
    }

    /// Runs every `test_*` rule that stands in these files.
    ///
    /// # Errors
    /// When OPA cannot read them, or there is no such rule.
    pub async fn test(&self, policies: &[PathBuf]) -> anyhow::Result<Vec<Tested>> {
        let finished = self.over("test", policies, "").args(["--format", "json"]).finish().await?;
        let tested: Vec<Tested> = serde_json::from_str(&finished.stdout)
            .with_context(|| format!("OPA printed {:?}{:?}", finished.stdout, finished.stderr))?;
        ensure!(!tested.is_empty(), "there is no test in {policies:?}");
        Ok(tested)
    }

    /// Those of these files that `opa fmt` would write otherwise.
    ///
    /// # Errors
    /// When OPA cannot parse them.
    pub async fn unformatted(&self, policies: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
        let listed = self.over("fmt", policies, "").arg("--list").output().await?;
        Ok(listed.lines().map(PathBuf::from).collect())
    }

    /// Compiles these files strictly: no unused variable or import, no name that shadows `input` or `data`.
    ///
    /// # Errors
    /// With what the compiler found.
    pub async fn check(&self, policies: &[PathBuf]) -> anyhow::Result<()> {
        self.over("check", policies, "").arg("--strict").output().await.map(drop)
    }

    fn over(&self, command: &str, policies: &[PathBuf], flag: &str) -> Program {
        let mut program = Program::new(&self.path).arg(command);
        for policy in policies {
            if !flag.is_empty() {
                program = program.arg(flag);
            }
            program = program.arg(policy);
        }
        program
    }
}

/// The files that end in `.rego` below a folder, by name.
///
/// # Errors
/// When the folder cannot be read.
pub fn rego_files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries =
        std::fs::read_dir(folder).with_context(|| format!("could not read {}", folder.display()))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "rego") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

#[derive(Deserialize)]
struct Evaluated {
    #[serde(default)]
    result: Vec<ResultSet>,
    #[serde(default)]
    errors: Vec<Value>,
}

#[derive(Deserialize)]
struct ResultSet {
    expressions: Vec<Expression>,
}

#[derive(Deserialize)]
struct Expression {
    value: Vec<Asked>,
}

#[derive(Deserialize)]
struct Asked {
    at: usize,
    got: Vec<Value>,
}
