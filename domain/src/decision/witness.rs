//! Who watches a decision being made: nobody, or somebody who writes down every step.

use std::fmt;

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
