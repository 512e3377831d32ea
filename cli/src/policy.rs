//! `dayfly policy`: see what stands, test a folder of Rego without any broker, and get one back as a folder.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use dayfly_domain::document::{Kind, parse, read_policy};
use dayfly_domain::policy::PolicySource;
use dayfly_policy::{PolicySet, TestRun};
use serde::Serialize;

use crate::connect::{Admin, ConnectArgs};
use crate::documents::{self, DocumentCommand};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{self, BAD, BOLD, Format, GOOD, paint, printable};
use crate::sources;

const TEST: &str = "\
A folder of *.rego files is one policy, named as the folder; a folder of such folders is several. Files named *_test.rego \
hold tests. Nothing is asked of a broker: the same code loads a policy there. `opa test FOLDER` runs the same tests, \
`opa fmt FOLDER` formats the same files.

Examples:
  dayfly policy test deploy/documents/policies
  dayfly policy test deploy/documents/policies/untrusted-tools -o json

Exit codes: 0 every policy would be taken, 1 faults.";

/// What can be done with policies.
#[derive(Subcommand, Debug)]
pub enum PolicyCommand {
    /// List all policies
    List,
    /// Show one; -o yaml prints it as it can be applied again
    Show {
        /// Its metadata.name
        name: String,
    },
    /// Load policies from folders and run their tests, offline
    #[command(after_long_help = TEST)]
    Test {
        /// A policy's folder, or a folder of them
        dir: PathBuf,
    },
    /// Write a policy as a folder of its name into another, as `apply -f` takes it
    Export {
        /// Its metadata.name
        name: String,
        /// The folder to write it into; nothing is overwritten
        dir: PathBuf,
    },
}

/// Does it.
pub async fn policy(command: PolicyCommand, connect: ConnectArgs, format: Format) -> Result<Exit, Failure> {
    match command {
        PolicyCommand::Test { dir } => return test(&dir, format),
        PolicyCommand::List => {
            documents::documents(Kind::Policy, DocumentCommand::List, connect, format).await?
        }
        PolicyCommand::Show { name } => {
            documents::documents(Kind::Policy, DocumentCommand::Show { name }, connect, format).await?
        }
        PolicyCommand::Export { name, dir } => export(&connect.admin().await?, name, &dir).await?,
    }
    Ok(Exit::Done)
}

/// What loading said, as programs read it; the field names are stable.
#[derive(Serialize)]
struct Tested {
    policies: Vec<TestedPolicy>,
}

#[derive(Serialize)]
struct TestedPolicy {
    name: String,
    tests: Vec<TestedRule>,
    faults: Vec<TestedFault>,
}

#[derive(Serialize)]
struct TestedRule {
    file: String,
    line: u32,
    name: String,
    failure: Option<String>,
}

#[derive(Serialize)]
struct TestedFault {
    file: Option<String>,
    line: Option<u32>,
    column: Option<u32>,
    problem: String,
    #[serde(skip)]
    excerpt: String,
}

fn test(dir: &Path, format: Format) -> Result<Exit, Failure> {
    let format = format.not_yaml()?;
    let policies = sources::policies(dir)?;
    if policies.is_empty() {
        let failure = Failure::new(format!("{} holds no policy", dir.display()));
        return Err(failure.next("name a folder of *.rego files, or a folder of such folders"));
    }
    let tested = Tested { policies: policies.iter().map(TestedPolicy::of).collect() };
    match format {
        Format::Json => output::json(&tested)?,
        Format::Table | Format::Yaml => {
            output::text(&tested.policies.iter().map(TestedPolicy::told).collect::<String>())?;
        }
    }
    let sound = tested.policies.iter().all(|policy| policy.faults.is_empty());
    Ok(if sound { Exit::Done } else { Exit::Failed })
}

impl TestedPolicy {
    fn of(document: &sources::Source) -> Self {
        let form = |problem: String| TestedFault {
            file: None,
            line: None,
            column: None,
            problem,
            excerpt: String::new(),
        };
        let (documents, faults) = parse(&document.yaml);
        let read = documents.first().map(|(number, document)| read_policy(*number, document));
        let source: PolicySource = match read {
            Some(Ok(source)) if faults.is_empty() => source,
            read => {
                let more = read.and_then(Result::err).into_iter().flatten();
                let told = faults.into_iter().chain(more);
                let faults = told.map(|fault| form(format!("{}: {}", fault.path, fault.problem))).collect();
                return Self { name: document.name.clone(), tests: Vec::new(), faults };
            }
        };
        let (runs, faults) = PolicySet::test(&source);
        let test = |TestRun { file, line, name, failure }| TestedRule { file, line, name, failure };
        let faults = faults.into_iter().map(|fault| TestedFault {
            file: Some(fault.file).filter(|file| !file.is_empty()),
            line: fault.place.map(|(line, _)| line),
            column: fault.place.map(|(_, column)| column),
            problem: fault.problem,
            excerpt: fault.excerpt,
        });
        Self { name: source.name, tests: runs.into_iter().map(test).collect(), faults: faults.collect() }
    }

    fn told(&self) -> String {
        let mut told = format!("{}\n", paint(BOLD, &printable(&self.name)));
        for test in &self.tests {
            let mark = if test.failure.is_none() { paint(GOOD, "ok  ") } else { paint(BAD, "FAIL") };
            told += &format!("  {mark} {}:{} {}\n", test.file, test.line, printable(&test.name));
        }
        for TestedFault { file, line, column, problem, excerpt } in &self.faults {
            let place = match (file, line, column) {
                (Some(file), Some(line), Some(column)) => format!("{file}:{line}:{column}: "),
                (Some(file), ..) => format!("{file}: "),
                (None, ..) => String::new(),
            };
            told += &format!("  {}{}\n", paint(BAD, &printable(&place)), printable(problem));
            excerpt.lines().for_each(|line| told += &format!("    {}\n", printable(line)));
        }
        let (tests, faults) = (self.tests.len(), self.faults.len());
        let count = |count: usize, word: &str| format!("{count} {word}{}", if count == 1 { "" } else { "s" });
        told + &format!("  {}, {}\n", count(tests, "test"), count(faults, "fault"))
    }
}

async fn export(admin: &Admin, name: String, dir: &Path) -> Result<(), Failure> {
    let yaml = documents::one(admin, Kind::Policy, name).await?.yaml;
    // What a broker sends is checked like any other: file names become paths here.
    let (documents, _) = parse(&yaml);
    let source = documents.first().and_then(|(number, document)| read_policy(*number, document).ok());
    let source = source.ok_or_else(|| Failure::new("the broker's answer holds no policy"))?;
    let labels = documents.first().map(|(_, document)| document.labels.clone()).unwrap_or_default();
    let cannot = |path: &Path, error: std::io::Error| {
        let next = "name a folder that does not hold this policy yet";
        Failure::new(format!("cannot write {}", path.display())).because(&error).next(next)
    };
    let dir = dir.join(&source.name);
    std::fs::create_dir_all(&dir).map_err(|error| cannot(&dir, error))?;
    let about = sources::about(source.scopes.as_ref(), &labels);
    let about = about.map(|text| (sources::ABOUT, text));
    let modules = source.modules.iter().map(|(file, text)| (file.as_str(), text.clone()));
    for (file, text) in modules.chain(about) {
        let path = dir.join(file);
        let written = OpenOptions::new().write(true).create_new(true).open(&path);
        written.and_then(|mut file| file.write_all(text.as_bytes())).map_err(|error| cannot(&path, error))?;
    }
    Ok(())
}
