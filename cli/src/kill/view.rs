//! Kills and what they end, as people and programs read them.

use dayfly_client::v1;
use serde::Serialize;

use crate::exit::Exit;
use crate::output::{self, BAD, BOLD, FAINT, GOOD, ODD, paint, printable};
use crate::wire::{self, At, some};

/// A kill as programs read it; the field names are stable.
#[derive(Debug, Serialize)]
pub struct KillView {
    kill_id: String,
    kind: String,
    name: String,
    reason: String,
    state: String,
    digest: String,
    asked_at: Option<At>,
    asked_by: String,
    approved_at: Option<At>,
    approved_by: Option<String>,
    lifted_at: Option<At>,
    lifted_by: Option<String>,
}

impl From<v1::Kill> for KillView {
    fn from(wire: v1::Kill) -> Self {
        let v1::KillTarget { kind, name } = wire.target.unwrap_or_default();
        Self {
            kill_id: wire.kill_id,
            kind,
            name,
            reason: wire.reason,
            state: wire.state,
            digest: wire.digest,
            asked_at: wire::at(wire.asked_at),
            asked_by: wire.asked_by,
            approved_at: wire::at(wire.approved_at),
            approved_by: some(wire.approved_by),
            lifted_at: wire::at(wire.lifted_at),
            lifted_by: some(wire.lifted_by),
        }
    }
}

impl KillView {
    /// What is cut off, in words.
    pub fn target(&self) -> String {
        let kind = self.kind.replace('_', " ");
        if self.name.is_empty() { kind } else { format!("{kind} {}", printable(&self.name)) }
    }
}

/// Kills as a table.
pub fn list(kills: &[KillView]) -> String {
    let row = |kill: &KillView| {
        let approved = kill.approved_by.as_ref().map(|by| format!(", approved by {by}")).unwrap_or_default();
        let lifted = kill.lifted_by.as_ref().map(|by| format!(", lifted by {by}")).unwrap_or_default();
        [
            kill.kill_id.clone(),
            kill.target(),
            kill.state.clone(),
            wire::or_dash(kill.asked_at),
            format!("{}{approved}{lifted}", kill.asked_by),
            kill.reason.clone(),
            kill.digest.chars().take(16).collect(),
        ]
    };
    let columns = ["KILL", "CUTS OFF", "STATE", "SINCE", "BY", "REASON", "DIGEST"];
    output::table(columns, kills.iter().map(row))
}

/// What a kill ends, as programs read it; the field names are stable.
#[derive(Debug, Serialize)]
pub struct WidthView {
    tasks: u64,
    tasks_of: u64,
    leases: u64,
    leases_of: u64,
    wide: bool,
    holders: Vec<HolderView>,
    scopes: Vec<ScopeView>,
}

#[derive(Debug, Serialize)]
struct HolderView {
    spiffe_id: String,
    tasks: u64,
    leases: u64,
}

#[derive(Debug, Serialize)]
struct ScopeView {
    scope: String,
    leases: u64,
    owners: Vec<String>,
}

impl From<v1::KillWidth> for WidthView {
    fn from(wire: v1::KillWidth) -> Self {
        let holder = |v1::KilledHolder { spiffe_id, tasks, leases }| HolderView { spiffe_id, tasks, leases };
        let scope = |v1::KilledScope { scope, leases, owners }| ScopeView { scope, leases, owners };
        Self {
            tasks: wire.tasks,
            tasks_of: wire.tasks_of,
            leases: wire.leases,
            leases_of: wire.leases_of,
            wide: wire.wide,
            holders: wire.holders.into_iter().map(holder).collect(),
            scopes: wire.scopes.into_iter().map(scope).collect(),
        }
    }
}

impl WidthView {
    /// What it would end, and whose that is.
    pub fn told(&self) -> String {
        let mut told = format!(
            "would end {} of {} open tasks and take back {} of {} leases\n",
            self.tasks, self.tasks_of, self.leases, self.leases_of
        );
        if self.wide {
            told.push_str(&format!("{}\n", paint(ODD, "it is wide: a second admin must approve it")));
        }
        if !self.holders.is_empty() {
            let row =
                |one: &HolderView| [one.spiffe_id.clone(), one.tasks.to_string(), one.leases.to_string()];
            let table = output::table(["HOLDER", "TASKS", "LEASES"], self.holders.iter().map(row));
            told.push_str(&format!("\n{table}"));
        }
        if !self.scopes.is_empty() {
            let row = |one: &ScopeView| [one.scope.clone(), one.leases.to_string(), one.owners.join(", ")];
            let table = output::table(["SCOPE", "LEASES", "OWNERS"], self.scopes.iter().map(row));
            told.push_str(&format!("\n{table}"));
        }
        told
    }
}

/// What a kill did, as programs read it; the field names are stable.
#[derive(Debug, Serialize)]
pub struct Outcome {
    kill: Option<KillView>,
    would_end: WidthView,
    tasks_ended: u64,
    verified: u64,
    never_issued: u64,
    ran_out: u64,
    running_out: u64,
    still_revoking: u64,
    nodes_told: u32,
    nodes_acknowledged: u32,
}

impl From<v1::KillOutcome> for Outcome {
    fn from(wire: v1::KillOutcome) -> Self {
        let tally = wire.leases.unwrap_or_default();
        Self {
            kill: wire.kill.map(KillView::from),
            would_end: wire.width.unwrap_or_default().into(),
            tasks_ended: wire.tasks_ended,
            verified: tally.verified,
            never_issued: tally.never_issued,
            ran_out: tally.ran_out,
            running_out: tally.running_out,
            still_revoking: tally.revoking + tally.live,
            nodes_told: wire.nodes_told,
            nodes_acknowledged: wire.nodes_acknowledged,
        }
    }
}

impl Outcome {
    fn waits(&self) -> bool {
        self.kill.as_ref().is_some_and(|kill| kill.state == "proposed")
    }

    /// The worst of it.
    pub fn exit(&self) -> Exit {
        if self.waits() {
            Exit::Waits
        } else if self.still_revoking > 0 || self.nodes_acknowledged < self.nodes_told {
            Exit::StillRevoking
        } else if self.running_out + self.ran_out > 0 {
            Exit::RunsOut
        } else {
            Exit::Done
        }
    }

    /// In words.
    pub fn told(&self) -> String {
        let Some(kill) = &self.kill else { return String::new() };
        if self.waits() {
            return format!(
                "{}\n{}nothing is cut off yet; another admin runs\n  {}\n",
                paint(ODD, "it is wide and waits for a second admin"),
                self.would_end.told(),
                paint(BOLD, &format!("dayfly kill approve {} --digest {}", kill.kill_id, kill.digest)),
            );
        }
        let leases = [
            (GOOD, self.verified, "verified"),
            (GOOD, self.never_issued, "never issued"),
            (ODD, self.ran_out, "ran out"),
            (ODD, self.running_out, "left to run out"),
            (BAD, self.still_revoking, "still revoking; see dayfly revocations"),
        ];
        let counted = leases.iter().filter(|(_, count, _)| *count > 0);
        let leases: Vec<String> =
            counted.map(|(style, count, name)| paint(*style, &format!("{count} {name}"))).collect();
        let leases = if leases.is_empty() { "no live leases".to_owned() } else { leases.join(", ") };
        let tasks = self.tasks_ended;
        let style = if self.nodes_acknowledged < self.nodes_told { BAD } else { GOOD };
        let agents = format!("{} of {} agents have dropped it", self.nodes_acknowledged, self.nodes_told);
        format!(
            "{} is cut off ({})\n{tasks} {} ended; {leases}; {}\n",
            kill.target(),
            paint(FAINT, &kill.kill_id),
            if tasks == 1 { "task" } else { "tasks" },
            paint(style, &agents),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(state: &str, tally: v1::LeaseTally, acknowledged: u32) -> Outcome {
        let kill = v1::Kill { state: state.into(), ..Default::default() };
        v1::KillOutcome {
            kill: Some(kill),
            leases: Some(tally),
            nodes_told: 2,
            nodes_acknowledged: acknowledged,
            ..Default::default()
        }
        .into()
    }

    #[test]
    fn the_exit_code_tells_the_worst() {
        let tally = |running_out, revoking| v1::LeaseTally {
            verified: 3,
            running_out,
            revoking,
            ..Default::default()
        };
        for (state, tally, acknowledged, exit) in [
            ("standing", tally(0, 0), 2, Exit::Done),
            ("standing", tally(1, 0), 2, Exit::RunsOut),
            ("standing", tally(1, 1), 2, Exit::StillRevoking),
            ("standing", tally(0, 0), 1, Exit::StillRevoking),
            ("proposed", tally(0, 0), 0, Exit::Waits),
        ] {
            assert_eq!(outcome(state, tally, acknowledged).exit(), exit, "{state} {tally:?}");
        }
    }
}
