//! The engine's interpreter: explains a decision rule by rule, and runs a policy's own tests.

use std::num::NonZeroU32;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use regorus::utils::limits::ExecutionTimerConfig;
use regorus::{Engine, Value};

use crate::syntax::lengths;

/// The longest the interpreter works on one rule.
pub const TIME_LIMIT: Duration = Duration::from_millis(500);
/// Steps between two looks at the clock.
const CHECK_EVERY: NonZeroU32 = NonZeroU32::new(64).expect("not zero");

/// Modules, ready to be asked.
#[derive(Debug)]
pub(crate) struct Interpreter {
    engine: Engine,
}

impl Interpreter {
    /// From modules by file name. They have been read before, so what fails here concerns them together.
    ///
    /// `strict` makes an error of what a built-in function is given wrongly: for tests, where it is a mistake. Decisions
    /// take it for undefined, as OPA does.
    pub(crate) fn new<'a>(
        modules: impl Iterator<Item = (&'a str, &'a str)>,
        strict: bool,
    ) -> Result<Self, String> {
        let mut engine = Engine::new();
        engine.set_policy_length_config(lengths());
        engine.set_execution_timer_config(ExecutionTimerConfig {
            limit: TIME_LIMIT,
            check_interval: CHECK_EVERY,
        });
        engine.set_strict_builtin_errors(strict);
        engine.set_gather_prints(true);
        for (file, text) in modules {
            engine.add_policy(file.to_owned(), text.to_owned()).map_err(|error| error.to_string())?;
        }
        Ok(Self { engine })
    }

    /// The engine, to be compiled.
    pub(crate) fn engine(&mut self) -> &mut Engine {
        &mut self.engine
    }

    /// What a rule yields: `data.dayfly.training_hours.decision`. A panic of the engine is an error like any other.
    pub(crate) fn rule(&self, path: &str, input: Value) -> Result<Value, String> {
        let mut engine = self.engine.clone();
        let ran = catch_unwind(AssertUnwindSafe(|| {
            engine.set_input(input);
            engine.eval_rule(path.to_owned())
        }));
        ran.map_err(|_| "the engine panicked".to_owned())?.map_err(|error| error.to_string())
    }

    /// What each definition of each module yields by itself, in the order of the source. Undefined where its body did
    /// not hold. `name` gives the name of a definition that is to be asked, by the numbers of module and definition.
    /// The second part tells of the first definition that failed, if one did; none is asked after it.
    pub(crate) fn definitions<'a>(
        &self,
        package: &[&str],
        input: &Value,
        name: impl Fn(usize, usize) -> Option<&'a str>,
    ) -> (Vec<Definition>, Option<String>) {
        let mut engine = self.engine.clone();
        let modules = engine.get_modules().clone();
        let mut definitions = Vec::new();
        for (module_number, module) in modules.iter().enumerate() {
            for (number, rule) in module.policy.iter().enumerate() {
                let Some(name) = name(module_number, number) else { continue };
                let ran = catch_unwind(AssertUnwindSafe(|| {
                    engine.set_input(input.clone());
                    engine.eval_rule_in_module(module, rule, false)
                }));
                let data = match ran {
                    Ok(Ok(data)) => data,
                    Ok(Err(error)) => return (definitions, Some(error.to_string())),
                    Err(_) => return (definitions, Some("the engine panicked".to_owned())),
                };
                let path = package.iter().chain([&name]);
                let value = path.fold(&data, |value, segment| &value[&Value::from(*segment)]).clone();
                definitions.push(Definition { module: module_number, number, value });
            }
        }
        (definitions, None)
    }
}

/// What one definition yielded.
#[derive(Debug)]
pub(crate) struct Definition {
    pub(crate) module: usize,
    pub(crate) number: usize,
    pub(crate) value: Value,
}
