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

/// What OPA is asked: what `query` is under each input, by these policies.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// Files of Rego.
    pub policies: &'a [PathBuf],
    /// A reference: `data.dayfly.limits.decision`.
    pub query: &'a str,
    /// The inputs, one after the other.
    pub inputs: &'a [Value],
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
    /// When OPA does not take the policies.
    pub async fn answers(
        &self,
        policies: &[PathBuf],
        query: &str,
        inputs: &[Value],
    ) -> anyhow::Result<Vec<Answer>> {
        let question = Question { policies, query, inputs };
        self.answers_of(&[question]).await?.pop().context("OPA gave no answers")
    }

    /// The same, for many questions in one process. Their policies are of different packages.
    ///
    /// # Errors
    /// When OPA does not take the policies.
    pub async fn answers_of(&self, questions: &[Question<'_>]) -> anyhow::Result<Vec<Vec<Answer>>> {
        let policies: Vec<PathBuf> =
            questions.iter().flat_map(|question| question.policies.iter().cloned()).collect();
        let mut answers: Vec<Vec<_>> =
            questions.iter().map(|question| vec![None; question.inputs.len()]).collect();
        let each = questions.iter().enumerate();
        let asked = each.flat_map(|(of, question)| (0..question.inputs.len()).map(move |at| (of, at)));
        // One error ends the whole evaluation, so halve until it stands alone.
        let mut open = vec![asked.collect::<Vec<_>>()];
        while let Some(mut part) = open.pop() {
            match self.batch(&policies, questions, &part).await? {
                _ if part.is_empty() => {}
                Ok(batch) => {
                    part.into_iter().zip(batch).for_each(|((of, at), got)| answers[of][at] = Some(got))
                }
                Err(error) => match part.as_slice() {
                    [(of, at)] => answers[*of][*at] = Some(Answer::Error(error)),
                    _ => {
                        let rest = part.split_off(part.len() / 2);
                        open.extend([part, rest]);
                    }
                },
            }
        }
        let whole = answers.into_iter().map(|answers| answers.into_iter().collect::<Option<Vec<_>>>());
        whole.collect::<Option<Vec<_>>>().context("OPA left an input out")
    }

    async fn batch(
        &self,
        policies: &[PathBuf],
        questions: &[Question<'_>],
        asked: &[(usize, usize)],
    ) -> anyhow::Result<Result<Vec<Answer>, String>> {
        let scratch = Scratch::new()?;
        let numbered = asked.iter().enumerate();
        let mut inputs = vec![Vec::new(); questions.len()];
        for (number, (of, at)) in numbered {
            inputs[*of].push(json!({ "number": number, "input": questions[*of].inputs[*at] }));
        }
        let data = scratch.file("inputs.json", 0o644, serde_json::to_vec(&json!({ "oracle": inputs }))?)?;
        let used = questions.iter().enumerate().filter(|(of, _)| !inputs[*of].is_empty());
        let each = used.map(|(of, Question { query, .. })| {
            format!(
                "[{{\"number\": asked.number, \"got\": [got | input_ := asked.input; got := {query} with input as input_]}} | \
                 some asked in data.oracle[{of}]]"
            )
        });
        let query = format!("[{}]", each.collect::<Vec<_>>().join(", "));
        let query =
            scratch.file("query.rego", 0o644, format!("package oracle_query\n\nanswers := {query}\n"))?;
        let program = self.over("eval", policies, "--data").arg("--data").arg(query).arg("--data").arg(data);
        let finished = program.args(["--format", "json", "data.oracle_query.answers"]).finish().await?;
        let printed: Evaluated = serde_json::from_str(&finished.stdout)
            .with_context(|| format!("OPA printed {:?}{:?}", finished.stdout, finished.stderr))?;
        if let Some(error) = printed.errors.first() {
            let evaluating = error["code"].as_str().is_some_and(|code| code.starts_with("eval_"));
            ensure!(evaluating, "OPA does not take the policies: {error}");
            return Ok(Err(error.to_string()));
        }
        let value = printed.result.into_iter().flat_map(|result| result.expressions).next();
        let mut answers = vec![None; asked.len()];
        for Asked { number, mut got } in value.context("OPA gave no result")?.value.into_iter().flatten() {
            let answer = got.pop().map_or(Answer::Undefined, Answer::Value);
            *answers.get_mut(number).context("OPA counts otherwise")? = Some(answer);
        }
        Ok(Ok(answers.into_iter().collect::<Option<Vec<_>>>().context("OPA left an input out")?))
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

    /// Those of these files that OPA's compiler does not take.
    ///
    /// # Errors
    /// When OPA does not say which.
    pub async fn refused(&self, policies: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
        let mut refused = Vec::new();
        // One pass of the compiler ends at its first faults.
        loop {
            let left: Vec<PathBuf> =
                policies.iter().filter(|policy| !refused.contains(*policy)).cloned().collect();
            let checked = self.over("check", &left, "").args(["--max-errors", "0", "--format", "json"]);
            let checked = checked.finish().await?;
            if checked.status.success() {
                return Ok(refused);
            }
            let faults: Evaluated = serde_json::from_str(&checked.stderr)
                .with_context(|| format!("OPA printed {:?}{:?}", checked.stdout, checked.stderr))?;
            let files = faults.errors.iter().filter_map(|fault| fault["location"]["file"].as_str());
            let found: Vec<PathBuf> = files.map(PathBuf::from).filter(|file| left.contains(file)).collect();
            ensure!(!found.is_empty(), "OPA names no file: {}", checked.stderr);
            refused.extend(found);
        }
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
    value: Vec<Vec<Asked>>,
}

#[derive(Deserialize)]
struct Asked {
    number: usize,
    got: Vec<Value>,
}
