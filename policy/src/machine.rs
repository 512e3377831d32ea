//! Live decisions: a policy compiled once for the engine's register machine, run with a limit on its instructions.

use std::num::NonZeroU32;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use regorus::languages::rego::compiler::Compiler;
use regorus::rvm::RegoVM;
use regorus::rvm::program::Program;
use regorus::utils::limits::ExecutionTimerConfig;
use regorus::{Engine, Value};

use crate::syntax::lengths_guarded;

/// Most instructions of one decision of one policy.
pub const MAX_INSTRUCTIONS: usize = 25_000;
/// The longest one decision may run, for functions that take long within one instruction. Far above what a decision
/// takes: a busy host must not turn into denials.
const TIME_LIMIT: Duration = Duration::from_millis(250);
/// Instructions between two looks at the clock.
const CHECK_EVERY: NonZeroU32 = NonZeroU32::new(512).expect("not zero");
/// Machines kept for reuse.
const MAX_IDLE: usize = 16;

/// A compiled policy.
#[derive(Debug)]
pub(crate) struct Machine {
    program: Arc<Program>,
    idle: Mutex<Vec<RegoVM>>,
}

impl Machine {
    /// Compiles one rule of what the engine holds: `data.dayfly.training_hours.decision`.
    pub(crate) fn compile(engine: &mut Engine, entry: &str) -> Result<Self, String> {
        let compiled = engine.compile_with_entrypoint(&entry.into()).map_err(|error| error.to_string())?;
        let program =
            Compiler::compile_from_policy(&compiled, &[entry]).map_err(|error| error.to_string())?;
        if program.has_host_await {
            return Err("asks its host for something".to_owned());
        }
        Ok(Self { program, idle: Mutex::default() })
    }

    /// The same, of modules by file name as [`guarded`](crate::guard::guarded) gives them.
    pub(crate) fn guarded<'a>(
        modules: impl Iterator<Item = (&'a str, &'a str)>,
        entry: &str,
    ) -> Result<Self, String> {
        let mut engine = Engine::new();
        engine.set_policy_length_config(lengths_guarded());
        for (file, text) in modules {
            engine.add_policy(file.to_owned(), text.to_owned()).map_err(|error| error.to_string())?;
        }
        Self::compile(&mut engine, entry)
    }

    /// What the rule yields for an input. A panic of the engine is an error like any other.
    pub(crate) fn run(&self, input: Value) -> Result<Value, String> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut machine = match idle {
            Some(machine) => machine,
            None => self.machine()?,
        };
        let ran = catch_unwind(AssertUnwindSafe(|| {
            machine.set_input(input);
            machine.execute_entry_point_by_index(0)
        }));
        match ran {
            Ok(Ok(value)) => {
                machine.set_input(Value::Undefined);
                let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
                if idle.len() < MAX_IDLE {
                    idle.push(machine);
                }
                Ok(value)
            }
            // What failed is not used again.
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("the engine panicked".to_owned()),
        }
    }

    fn machine(&self) -> Result<RegoVM, String> {
        let mut machine = RegoVM::new();
        machine.set_max_instructions(MAX_INSTRUCTIONS);
        machine.set_execution_timer_config(Some(ExecutionTimerConfig {
            limit: TIME_LIMIT,
            check_interval: CHECK_EVERY,
        }));
        machine.load_program(self.program.clone());
        machine.set_data(Value::new_object()).map_err(|error| error.to_string())?;
        Ok(machine)
    }
}
