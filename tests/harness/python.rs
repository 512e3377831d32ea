//! Python programs, in the environment that `scripts/requirements.txt` pins.

use std::path::PathBuf;

use crate::parts;
use crate::process::Program;

/// The interpreter with boto3, moto, grpcio, hvac and PyYAML.
#[derive(Debug, Clone)]
pub struct Python {
    interpreter: PathBuf,
}

impl Python {
    /// Finds it.
    ///
    /// # Errors
    /// When `DAYFLY_TEST_PYTHON` is not set.
    pub fn find() -> anyhow::Result<Self> {
        Ok(Self { interpreter: parts::exported("DAYFLY_TEST_PYTHON")? })
    }

    /// Its path, for a command line.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.interpreter.clone()
    }

    /// A program given as text; add arguments and variables to taste.
    #[must_use]
    pub fn script(&self, text: &str) -> Program {
        self.program().arg("-c").arg(text)
    }

    /// A module of the environment, as `python -m` runs it.
    #[must_use]
    pub fn module(&self, name: &str) -> Program {
        self.program().arg("-m").arg(name)
    }

    /// The bare interpreter, reading no settings of the user's.
    #[must_use]
    pub fn program(&self) -> Program {
        Program::new(&self.interpreter)
            .arg("-u")
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env("AWS_CONFIG_FILE", "/dev/null")
            .env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    }
}
