//! Who watches a decision being made: nobody, or somebody who writes down every step.

use std::fmt;

use super::Denial;

/// One step of a decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// What was looked at: `caller`, `binding train-data`, `policy untrusted-tools`.
    pub rule: String,
    /// Whether it spoke for the request.
    pub matched: bool,
    /// What it said.
    pub what: String,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", if self.matched { "+" } else { "-" }, self.rule, self.what)
    }
}

/// Watches a decision being made. A witness that writes is shown the steps behind the first refusal too.
pub(super) trait Witness {
    /// Whether anything is written down.
    const WRITES: bool;
    /// Whether every binding of the scope is looked at, and every rule of a policy.
    const EVERY_BINDING: bool;

    /// One step. What it says is only made up for those who write.
    fn step<R: Into<String>>(
        &mut self,
        matched: bool,
        rule: impl FnOnce() -> R,
        what: impl FnOnce() -> String,
    );
}

/// Writes nothing.
pub(super) struct Silent;

impl Witness for Silent {
    const WRITES: bool = false;
    const EVERY_BINDING: bool = false;

    fn step<R: Into<String>>(&mut self, _: bool, _: impl FnOnce() -> R, _: impl FnOnce() -> String) {}
}

/// Writes down every step. `WHOLE`: looks at every binding and every rule; else at a bounded number.
pub(super) struct Notes<const WHOLE: bool> {
    steps: Vec<Step>,
}

impl Notes<true> {
    /// For an explanation.
    pub(super) fn whole() -> Self {
        Self { steps: Vec::new() }
    }
}

impl Notes<false> {
    /// For the record of a denial.
    pub(super) fn for_the_record() -> Self {
        Self { steps: Vec::new() }
    }
}

impl<const WHOLE: bool> Notes<WHOLE> {
    pub(super) fn into_steps(self) -> Vec<Step> {
        self.steps
    }
}

impl<const WHOLE: bool> Witness for Notes<WHOLE> {
    const WRITES: bool = true;
    const EVERY_BINDING: bool = WHOLE;

    fn step<R: Into<String>>(
        &mut self,
        matched: bool,
        rule: impl FnOnce() -> R,
        what: impl FnOnce() -> String,
    ) {
        self.steps.push(Step { rule: rule().into(), matched, what: what() });
    }
}

/// Goes on behind the first refusal only for a witness that writes; the first refusal is the answer.
pub(super) struct Way<'w, W> {
    pub(super) witness: &'w mut W,
    pub(super) refused: Option<Denial>,
}

impl<'w, W: Witness> Way<'w, W> {
    pub(super) fn new(witness: &'w mut W) -> Self {
        Self { witness, refused: None }
    }

    pub(super) fn step(&mut self, rule: &'static str, checked: Result<(), Denial>) -> Result<(), Denial> {
        let what = || match &checked {
            Ok(()) => "holds".to_owned(),
            Err(denial) => denial.message.clone(),
        };
        self.witness.step(checked.is_ok(), || rule, what);
        self.go_on(checked)
    }

    pub(super) fn go_on(&mut self, checked: Result<(), Denial>) -> Result<(), Denial> {
        match checked {
            Err(denial) if W::WRITES => {
                self.refused.get_or_insert(denial);
                Ok(())
            }
            other => other,
        }
    }

    /// Nothing can be looked at behind this one.
    pub(super) fn stop<T>(&mut self, found: Result<T, Denial>) -> Result<T, Denial> {
        found.map_err(|denial| self.refused.take().unwrap_or(denial))
    }

    /// Whoever did not write has returned at the first refusal; whoever wrote returns it here.
    pub(super) fn end(self) -> Result<(), Denial> {
        self.refused.map_or(Ok(()), Err)
    }
}
