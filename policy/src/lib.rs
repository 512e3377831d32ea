//! The platform team's policies: Rego packages that may deny what bindings grant, with reasons, or narrow it.
//!
//! | module | what it is for |
//! |---|---|
//! | [`PolicySet`] | a set of policies, loaded whole or not at all; the [`Judge`](dayfly_domain::policy::Judge) of decisions |
//! | `load` | from source to a policy: read, checked, compiled, its own tests run |
//! | `syntax`, `check` | the syntax tree, and what a policy may not do: reach out, read a clock, read an unnamed root |
//! | `language`, `literals` | the part of Rego that means one thing to every engine; the rest is refused |
//! | `guard` | the text that the machine is given |
//! | `machine`, `interpreter` | live decisions; explanations and tests |
//! | `answer` | what an answer may hold; anything else denies |
//! | [`lint`] | rules that rest on nothing but the workload's word |
//!
//! Limits keep a mistake in a policy from holding up the broker. They are no sandbox against its authors: who may apply
//! policies may apply bindings too.

mod answer;
mod builtins;
mod check;
mod fault;
mod guard;
mod input;
mod interpreter;
mod known;
mod language;
pub mod lint;
mod literals;
mod load;
mod machine;
mod set;
mod shape;
mod syntax;

pub use answer::{
    MAX_DENY_STATEMENTS, MAX_REASON, MAX_REASONS, MAX_STATEMENT_BYTES, MAX_TAG_KEY, MAX_TAG_VALUE, MAX_TAGS,
    is_reserved_tag,
};
pub use builtins::ALLOWED as ALLOWED_BUILTINS;
pub use fault::PolicyFault;
pub use interpreter::TIME_LIMIT;
pub use load::TestRun;
pub use machine::MAX_INSTRUCTIONS;
pub use set::{PolicySet, RawDecisions};

#[cfg(test)]
mod tests;
