//! What the words of Dayfly mean, and what is allowed. Pure: no I/O, no async, no clock, no SQL.
//!
//! | module | word |
//! |---|---|
//! | [`spiffe`], [`pattern`] | SPIFFE IDs, and patterns over them |
//! | [`caller`], [`stage`] | who asks, how that was proven, what kind of work the identity does |
//! | [`parameter`], [`template`], [`scope`] | named, parameterised permissions on one target |
//! | [`binding`], [`node`], [`rules`] | who may use which scope, and which agents may speak for whom |
//! | [`document`] | the YAML documents that scopes, bindings, stages and nodes are written in |
//! | [`brake`] | when a node's silence ends its tasks, and when too many are silent for that |
//! | [`task`], [`lease`] | the two state machines |
//! | [`decision`] | allow or deny, with the reasons |
//! | [`kill`] | what is cut off until an admin lifts it |
//! | [`artifact`] | what is loaded, called or queried, and the scopes that allow it |
//! | [`hypothesis`], [`reach`], [`who_can`] | questions about access, each answered by asking for a decision |
//! | [`review`] | what was used of bindings, and what would have sufficed |
//! | [`simulation`] | what a change of the rules does to requests that were made |
//! | [`lint`] | what is legal and still a mistake |
//! | [`key`] | the life of a signing key |
//! | [`breaker`] | how many tries a target that fails is given |
//! | [`idempotency`] | asking again for a credential whose answer was lost |
//! | [`schedule`] | when to renew, when to try again |
//! | [`aws_deny`], [`aws_doctor`] | how sessions of AWS are ended: one deny document per role; whether an account is set up for it |
//! | [`audit`] | records and their hash chain |

pub mod approval;
pub mod artifact;
pub mod audit;
pub mod aws_deny;
pub mod aws_doctor;
pub mod binding;
pub mod binding_index;
pub mod brake;
pub mod breaker;
pub mod caller;
pub mod decision;
pub mod document;
pub mod hypothesis;
pub mod id;
pub mod idempotency;
pub mod key;
pub mod kill;
pub mod lease;
pub mod lint;
pub mod node;
pub mod parameter;
pub mod pattern;
pub mod pattern_index;
pub mod policy;
pub mod reach;
pub mod review;
pub mod rules;
pub mod schedule;
pub mod scope;
pub mod secret;
pub mod simulation;
pub mod spiffe;
pub mod stage;
pub mod task;
pub mod template;
pub mod time;
pub mod who_can;

#[cfg(test)]
mod golden;
