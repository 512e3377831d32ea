//! From source to a policy that may decide: read, checked, compiled, its own tests run. All faults at once.

use dayfly_domain::policy::PolicySource;
use regorus::Value;

use crate::check::{check, is_test};
use crate::fault::{PolicyFault, engine_error, excerpt, one_line};
use crate::interpreter::Interpreter;
use crate::machine::Machine;
use crate::syntax::Module;

/// A policy that may decide.
#[derive(Debug)]
pub(crate) struct Policy {
    pub(crate) source: PolicySource,
    /// `data.dayfly.training_hours.decision`.
    pub(crate) entry: String,
    /// The modules that are no tests, in the order the interpreter holds them.
    pub(crate) modules: Vec<Module>,
    pub(crate) machine: Machine,
    pub(crate) interpreter: Interpreter,
}

/// What became of one of a policy's own tests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestRun {
    /// The module's file name.
    pub file: String,
    /// The line it stands on.
    pub line: u32,
    /// `test_…`.
    pub name: String,
    /// Nothing if it passed, else why not.
    pub failure: Option<String>,
}

impl Policy {
    /// Loads one policy. What its tests did is told even where they fail.
    pub(crate) fn load(source: &PolicySource) -> (Result<Self, Vec<PolicyFault>>, Vec<TestRun>) {
        let loading = Loading { source };
        match loading.load() {
            Ok((policy, runs)) => {
                let faults = loading.failures(&runs);
                (if faults.is_empty() { Ok(policy) } else { Err(faults) }, runs)
            }
            Err(faults) => (Err(faults), Vec::new()),
        }
    }
}

struct Loading<'a> {
    source: &'a PolicySource,
}

impl Loading<'_> {
    fn load(&self) -> Result<(Policy, Vec<TestRun>), Vec<PolicyFault>> {
        let (modules, mut faults) = self.read();
        // What could not be read may define what the rest calls.
        if faults.is_empty() {
            faults = check(self.source, &modules);
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        let one = |error: String| vec![self.of_engine(&error)];
        let texts = |tests: bool| {
            let modules = modules.iter().filter(move |module| tests || !module.is_test());
            modules.map(|module| (module.file.as_str(), module.text.as_str()))
        };
        let entry = format!("data.{}.decision", self.source.package());
        let mut interpreter = Interpreter::new(texts(false), false).map_err(one)?;
        // The policy as it was written first: what is wrong with it stands where the author finds it.
        Machine::compile(interpreter.engine(), &entry).map_err(one)?;
        let guarded = modules.iter().filter(|module| !module.is_test());
        let guarded = guarded.map(|module| (module.file.as_str(), module.guarded.as_str()));
        let machine = Machine::guarded(guarded, &entry).map_err(one)?;
        let runs = self.run_tests(&Interpreter::new(texts(true), true).map_err(one)?, &modules);
        let modules = modules.into_iter().filter(|module| !module.is_test()).collect();
        let policy = Policy { source: self.source.clone(), entry, modules, machine, interpreter };
        Ok((policy, runs))
    }

    fn read(&self) -> (Vec<Module>, Vec<PolicyFault>) {
        let mut modules = Vec::new();
        let mut faults = Vec::new();
        for (file, text) in &self.source.modules {
            match Module::read(file, text) {
                Ok(module) => modules.push(module),
                Err((place, problem)) => faults.push(self.fault(file, text, place, problem)),
            }
        }
        (modules, faults)
    }

    fn run_tests(&self, interpreter: &Interpreter, modules: &[Module]) -> Vec<TestRun> {
        let mut runs = Vec::new();
        for module in modules.iter().filter(|module| module.is_test()) {
            for rule in module.rules.iter().filter(|rule| is_test(rule)) {
                let path = format!("data.{}.{}", module.package.join("."), rule.name);
                let failure = match interpreter.rule(&path, Value::Undefined) {
                    Ok(Value::Bool(true)) => None,
                    Ok(Value::Undefined) => Some("it is undefined".to_owned()),
                    Ok(other) => Some(format!("it is {}", one_line(&other.to_string(), 128))),
                    Err(error) => Some(one_line(&engine_error(&error).1, 512)),
                };
                let (file, line, name) = (module.file.clone(), rule.place.0, rule.name.clone());
                runs.push(TestRun { file, line, name, failure });
            }
        }
        runs
    }

    fn failures(&self, runs: &[TestRun]) -> Vec<PolicyFault> {
        let failed = runs.iter().filter_map(|run| Some((run, run.failure.as_deref()?)));
        failed
            .map(|(run, failure)| {
                let text = self.source.modules.get(&run.file).map_or("", String::as_str);
                let problem = format!("the policy's own test {} failed: {failure}", run.name);
                self.fault(&run.file, text, Some((run.line, 1)), problem)
            })
            .collect()
    }

    fn of_engine(&self, error: &str) -> PolicyFault {
        let (place, problem) = engine_error(error);
        match place {
            Some((file, line, column)) if self.source.modules.contains_key(&file) => {
                self.fault(&file, &self.source.modules[&file], Some((line, column)), problem)
            }
            _ => self.fault("", "", None, problem),
        }
    }

    fn fault(&self, file: &str, text: &str, place: Option<(u32, u32)>, problem: String) -> PolicyFault {
        PolicyFault {
            policy: self.source.name.clone(),
            file: file.to_owned(),
            place,
            problem: one_line(&problem, 512),
            excerpt: place.map(|(line, column)| excerpt(text, line, column)).unwrap_or_default(),
        }
    }
}
