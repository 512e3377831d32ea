//! Whether a task may be opened at all, by whom and for whom. What it may use is decided at each request.

use crate::binding::ViaRule;
use crate::caller::Caller;
use crate::parameter;
use crate::rules::Rules;
use crate::scope::{Ceiling, ScopeAsk};
use crate::spiffe::SpiffeId;
use crate::task::Task;
use crate::time::Timestamp;

use super::binding::first_without_grant;
use super::facts::{check_caller, check_chain_not_cut_off, check_lineage, not_granted};
use super::witness::{Notes, Silent, Step, Way, Witness};
use super::{Denial, DenyReason};

/// A task that somebody wants to open or to take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opening {
    /// For the caller itself, below the task it stands in.
    Own {
        /// What it declares.
        ceiling: Ceiling,
    },
    /// For a named workload, below the caller's own task.
    Delegated {
        /// Whom it is for.
        to: SpiffeId,
        /// What it declares.
        ceiling: Ceiling,
    },
    /// For the caller itself, below the task of another who gave it a credential of that task.
    OnBehalf {
        /// Whom the credential was issued to.
        given_by: SpiffeId,
        /// What it declares.
        ceiling: Ceiling,
    },
    /// One that was opened for the caller.
    Claimed,
}

/// Checks that an identity may open a task with this ceiling for itself. `above` is the tree it stands in, root first.
pub fn check_open(
    rules: &Rules,
    caller: &Caller,
    above: &[Task],
    ceiling: &Ceiling,
    now: Timestamp,
) -> Result<(), Denial> {
    let facts = Facts { rules, caller, above, now };
    facts.own(ceiling, Way::new(&mut Silent))
}

/// Checks that the holder of a task may open one below it for a named workload. `above` is the tree down to the holder's
/// own task, root first. All of the chain is held to it now, and again whenever the workload asks.
pub fn check_delegate(
    rules: &Rules,
    caller: &Caller,
    above: &[Task],
    to: &SpiffeId,
    ceiling: &Ceiling,
    now: Timestamp,
) -> Result<(), Denial> {
    let facts = Facts { rules, caller, above, now };
    facts.delegated(to, ceiling, Way::new(&mut Silent))
}

/// Checks that an identity may open a task for itself below the task of another, who gave it a credential of that task
/// for the purpose. `above` is the tree down to the other's task, root first; `given_by` is whom the credential was
/// issued to. All of the chain is held to it, as where the other opens the task.
pub fn check_on_behalf(
    rules: &Rules,
    caller: &Caller,
    given_by: &SpiffeId,
    above: &[Task],
    ceiling: &Ceiling,
    now: Timestamp,
) -> Result<(), Denial> {
    let facts = Facts { rules, caller, above, now };
    facts.on_behalf(given_by, ceiling, Way::new(&mut Silent))
}

/// Checks that an identity may claim a task: the task was opened for this very identity, nobody has claimed it, and all
/// above it is open. Whatever of this fails answers alike.
pub fn check_claim(rules: &Rules, caller: &Caller, lineage: &[Task], now: Timestamp) -> Result<(), Denial> {
    let facts = Facts { rules, caller, above: lineage, now };
    facts.claimed(Way::new(&mut Silent))
}

/// Checks as the four above do, and tells every step. `above` is the tree that the new task would stand in; of a claim,
/// the tree down to the claimed task.
pub fn explain_opening(
    rules: &Rules,
    caller: &Caller,
    above: &[Task],
    opening: &Opening,
    now: Timestamp,
) -> (Result<(), Denial>, Vec<Step>) {
    let facts = Facts { rules, caller, above, now };
    let mut notes = Notes::whole();
    let way = Way::new(&mut notes);
    let checked = match opening {
        Opening::Own { ceiling } => facts.own(ceiling, way),
        Opening::Delegated { to, ceiling } => facts.delegated(to, ceiling, way),
        Opening::OnBehalf { given_by, ceiling } => facts.on_behalf(given_by, ceiling, way),
        Opening::Claimed => facts.claimed(way),
    };
    (checked, notes.into_steps())
}

/// What an opening is checked against.
struct Facts<'a> {
    rules: &'a Rules,
    caller: &'a Caller,
    above: &'a [Task],
    now: Timestamp,
}

impl Facts<'_> {
    fn own<W: Witness>(&self, ceiling: &Ceiling, mut way: Way<'_, W>) -> Result<(), Denial> {
        let Facts { rules, caller, above, now } = *self;
        way.step("caller", check_caller(rules, caller, now))?;
        if !above.is_empty() {
            way.step("task", check_lineage(caller, above, now).map(drop))?;
        }
        self.check_kills(&mut way)?;
        way.step("way", check_way(rules, caller, ceiling))?;
        way.step("parameters", check_lines(rules, caller, ceiling))?;
        way.step("ceiling", check_declared(above, ceiling))?;
        way.end()
    }

    fn delegated<W: Witness>(
        &self,
        to: &SpiffeId,
        ceiling: &Ceiling,
        mut way: Way<'_, W>,
    ) -> Result<(), Denial> {
        let Facts { rules, caller, above, now } = *self;
        way.step("caller", check_caller(rules, caller, now))?;
        way.step("task", check_lineage(caller, above, now).map(drop))?;
        self.check_kills(&mut way)?;
        way.step("holder", self.check_caller_holds())?;
        way.step("workload", check_workload(rules, to))?;
        way.step("parameters", check_lines(rules, caller, ceiling))?;
        way.step("ceiling", check_declared(above, ceiling))?;
        way.step("chain", check_handed_on(rules, above, to, ceiling, now))?;
        way.end()
    }

    fn on_behalf<W: Witness>(
        &self,
        given_by: &SpiffeId,
        ceiling: &Ceiling,
        mut way: Way<'_, W>,
    ) -> Result<(), Denial> {
        let Facts { rules, caller, above, now } = *self;
        way.step("caller", check_caller(rules, caller, now))?;
        way.step("task", self.check_giver_open())?;
        self.check_kills(&mut way)?;
        way.step("holder", self.check_giver_holds(given_by))?;
        way.step("way", check_way(rules, caller, ceiling))?;
        way.step("parameters", check_lines(rules, caller, ceiling))?;
        way.step("ceiling", check_declared(above, ceiling))?;
        way.step("chain", check_handed_on(rules, above, &caller.spiffe_id, ceiling, now))?;
        way.end()
    }

    fn claimed<W: Witness>(&self, mut way: Way<'_, W>) -> Result<(), Denial> {
        way.step("caller", check_caller(self.rules, self.caller, self.now))?;
        way.step("offer", self.check_offered())?;
        self.check_kills(&mut way)?;
        way.end()
    }

    /// Nobody above is cut off. No step is told where no kill stands.
    fn check_kills<W: Witness>(&self, way: &mut Way<'_, W>) -> Result<(), Denial> {
        match self.rules.kills().is_empty() {
            true => Ok(()),
            false => way.step("kills", check_chain_not_cut_off(self.rules, self.above)),
        }
    }

    fn is_open(&self) -> bool {
        self.above.iter().all(|task| task.state.is_open(self.now))
    }

    /// The chain is asked for the holders of tasks. A process of another identity in the task must not hand on what is
    /// the holder's; in a task of its own it is part of the chain.
    fn check_caller_holds(&self) -> Result<(), Denial> {
        match self.above.last().filter(|task| task.opened_by != self.caller.spiffe_id) {
            None => Ok(()),
            Some(task) => {
                let what =
                    format!("task {} is held by another identity, which alone hands on from it", task.id);
                Err(DenyReason::DelegationNotAllowed.denial(what))
            }
        }
    }

    fn check_giver_open(&self) -> Result<(), Denial> {
        match self.above.last().filter(|task| self.is_open() && task.offer.is_none()) {
            Some(_) => Ok(()),
            None => {
                let what = "the task that the credential belongs to is not open".to_owned();
                Err(DenyReason::TaskNotOpen.denial(what))
            }
        }
    }

    /// As where it opens a task for another: the chain is asked for holders alone.
    fn check_giver_holds(&self, given_by: &SpiffeId) -> Result<(), Denial> {
        if self.above.last().is_some_and(|task| task.opened_by == *given_by) {
            return Ok(());
        }
        let what =
            format!("{given_by} does not hold the task of its credential, so it hands on nothing of it");
        Err(DenyReason::DelegationNotAllowed.denial(what))
    }

    fn check_offered(&self) -> Result<(), Denial> {
        let is_theirs = |task: &Task| task.offer.is_some() && task.opened_by == self.caller.spiffe_id;
        match self.above.last().filter(|task| self.is_open() && is_theirs(task)) {
            Some(_) => Ok(()),
            None => Err(DenyReason::TaskNotOpen.denial("no such task is offered to you".to_owned())),
        }
    }
}

/// Whom a task is opened for may hold something.
fn check_workload(rules: &Rules, to: &SpiffeId) -> Result<(), Denial> {
    if rules.stage_of(to).is_some_and(|stage| stage.holds_target_scopes()) {
        return match rules.cuts_off(to) {
            true => Err(DenyReason::CutOff.denial(format!("{to} is cut off"))),
            false => Ok(()),
        };
    }
    let what = format!("{to} fills no stage that holds target scopes");
    Err(DenyReason::DelegationNotAllowed.denial(what))
}

/// Who comes without an agent has a binding for that on each scope. Whether it carries is decided at each request. To
/// whom no binding is for, every scope is unknown.
fn check_way(rules: &Rules, caller: &Caller, ceiling: &Ceiling) -> Result<(), Denial> {
    if caller.via.node().is_some() {
        return Ok(());
    }
    for ask in ceiling.lines() {
        let bindings = rules.bindings_on(&ask.scope, &caller.spiffe_id);
        if bindings.is_empty() {
            return Err(not_granted(caller, ask));
        }
        if !bindings.iter().any(|binding| binding.via == ViaRule::Direct) {
            let what = format!("scope {:?} is not given to callers without a node agent", ask.scope);
            return Err(DenyReason::ViaNotAllowed.denial(what));
        }
    }
    Ok(())
}

/// The holder of every task above may use each line, or delegate it down to whom it is handed.
fn check_handed_on(
    rules: &Rules,
    above: &[Task],
    to: &SpiffeId,
    ceiling: &Ceiling,
    now: Timestamp,
) -> Result<(), Denial> {
    let without = |ask: &&ScopeAsk| first_without_grant(rules, above, Some(to), ask, now).is_some();
    match ceiling.lines().iter().find(without) {
        None => Ok(()),
        Some(ask) => {
            let what = format!(
                "scope {:?} with these parameters may not be handed to {to} by this task and those above it",
                ask.scope
            );
            Err(DenyReason::DelegationNotAllowed.denial(what))
        }
    }
}

/// Each line names a scope and values it takes.
fn check_lines(rules: &Rules, caller: &Caller, ceiling: &Ceiling) -> Result<(), Denial> {
    for ask in ceiling.lines() {
        let scope = rules.scope(&ask.scope).ok_or_else(|| not_granted(caller, ask))?;
        if let Err(faults) = parameter::check(&scope.parameters, &ask.parameters) {
            let told: Vec<String> = faults.iter().map(ToString::to_string).collect();
            return Err(DenyReason::ParameterInvalid.denial(told.join("; ")));
        }
    }
    Ok(())
}

/// Every task above declared each line.
fn check_declared(above: &[Task], ceiling: &Ceiling) -> Result<(), Denial> {
    let outside = above.iter().find_map(|task| ceiling.first_outside(&task.ceiling).map(|ask| (task, ask)));
    match outside {
        None => Ok(()),
        Some((task, ask)) => {
            let what =
                format!("task {} did not declare scope {:?} with these parameters", task.id, ask.scope);
            Err(DenyReason::OutsideCeiling.denial(what))
        }
    }
}
