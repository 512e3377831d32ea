//! A task that hangs on a process: who descends from it, and who is left after it.

use std::sync::OnceLock;

use dayfly_sys::pidfd;

use super::{AnchorError, Spare};
use crate::process::{Process, ProcessId, Stat, ticks_since_boot};

/// A process that a task hangs on.
#[derive(Debug)]
pub struct ProcessAnchor {
    leader: Process,
    /// When the leader's end was first seen, in clock ticks since boot.
    seen_dead: OnceLock<u64>,
}

impl ProcessAnchor {
    /// Hangs a task on `leader`, which `caller` named by a pidfd: itself, or a child of its own.
    pub fn new(caller: &Process, leader: Process) -> Result<Self, AnchorError> {
        let is_family = leader.lineage()?.iter().take(2).any(|&id| id == caller.id());
        caller.must_be_alive()?;
        if !is_family {
            return Err(AnchorError::NotYours);
        }
        Ok(Self::again(leader))
    }

    /// Hangs a task on the process it already hung on before the agent was restarted.
    pub fn again(leader: Process) -> Self {
        Self { leader, seen_dead: OnceLock::new() }
    }

    /// The process.
    pub fn leader(&self) -> &Process {
        &self.leader
    }

    /// Stops all that descends from the leader, so that nothing forks and no line breaks, then kills it.
    pub(super) fn kill(&self, spare: Spare) -> Result<(), AnchorError> {
        let leader_lives = !self.has_ended();
        if leader_lives && spare == Spare::Nobody {
            pidfd::stop(&self.leader)?;
        }
        let mut stopped: Vec<Process> = Vec::new();
        let mut settled = false;
        for _ in 0..100 {
            let news: Vec<Process> =
                self.rest()?.into_iter().filter(|process| !stopped.contains(process)).collect();
            if news.is_empty() {
                settled = true;
                break;
            }
            for process in &news {
                pidfd::stop(process)?;
            }
            stopped.extend(news);
        }
        for process in &stopped {
            pidfd::kill(process)?;
        }
        if leader_lives && spare == Spare::Nobody {
            pidfd::kill(&self.leader)?;
        }
        if settled { Ok(()) } else { Err(AnchorError::Forking) }
    }

    /// Who is left besides the leader: its descendants while it lives; after that those of its process group or
    /// session, if it led one.
    pub(super) fn rest(&self) -> Result<Vec<Process>, AnchorError> {
        let all = Stat::of_all()?;
        let candidates: Vec<ProcessId> = match self.seen_dead.get() {
            None => descendants(self.leader.id(), &all),
            Some(&dead_since) => self.heirs(dead_since, &all),
        };
        let mut rest = Vec::new();
        for id in candidates {
            let Ok(process) = Process::open(id.pid) else { continue };
            let is_own = i32::try_from(std::process::id()) == Ok(id.pid);
            // Between the list and the pidfd the number may have changed hands; the start time tells.
            if process.id() == id && !is_own {
                rest.push(process);
            }
        }
        Ok(rest)
    }

    /// A group's or session's number is not given away while somebody is in it. A group that took the number later has
    /// no member that started before the leader's end.
    pub(super) fn heirs(&self, dead_since: u64, all: &[Stat]) -> Vec<ProcessId> {
        let leader = self.leader.id();
        let was_there = |stat: &&Stat| (leader.start_time..=dead_since).contains(&stat.id.start_time);
        let is_heir = |stat: &&Stat| stat.pgrp == leader.pid || stat.session == leader.pid;
        all.iter()
            .filter(|stat| !stat.is_dead)
            .filter(was_there)
            .filter(is_heir)
            .map(|stat| stat.id)
            .collect()
    }

    pub(super) fn has_ended(&self) -> bool {
        if self.leader.is_alive() {
            return false;
        }
        self.seen_dead.get_or_init(|| ticks_since_boot().unwrap_or(0));
        true
    }
}

/// Who descends from `leader` in a list of processes; without it.
pub(crate) fn descendants(leader: ProcessId, all: &[Stat]) -> Vec<ProcessId> {
    let mut family = vec![leader];
    let mut next = 0;
    while let Some(&parent) = family.get(next) {
        for stat in all {
            // A child is not older than its parent; if it seems so, the parent's number is a new process's.
            let is_child =
                stat.ppid == parent.pid && stat.id.start_time >= parent.start_time && !stat.is_dead;
            // The list was not read at one moment, so it might even have circles.
            if is_child && !family.contains(&stat.id) {
                family.push(stat.id);
            }
        }
        next += 1;
    }
    family.split_off(1)
}
