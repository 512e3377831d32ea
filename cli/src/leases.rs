//! `dayfly lease`: issued credentials, where each stands, and what its target said.

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use dayfly_client::v1;
use serde::Serialize;

use crate::connect::{ConnectArgs, answer};
use crate::failure::Failure;
use crate::output::{self, Format};
use crate::wire::{self, At, Promise, some};

const EXAMPLES: &str = "\
Examples:
  dayfly lease list --task 01JZX0Q4V9N3F7T2K8M5R6W1YB
  dayfly lease list --scope s3-train-read --all -o json
  dayfly lease show 01JZX0Q5D2H8C4P9S7A3E6G1XK";

/// See issued credentials
#[derive(Subcommand, Debug)]
#[command(after_long_help = EXAMPLES)]
pub enum LeaseCommand {
    /// List leases, newest first; those that ended only with --all
    List(ListArgs),
    /// Show one lease
    Show {
        /// The lease's id
        #[arg(value_name = "LEASE")]
        id: String,
    },
}

/// Filters; all must hold.
#[derive(Args, Debug)]
pub struct ListArgs {
    /// Only leases of this task
    #[arg(long, value_name = "TASK", default_value = "", hide_default_value = true)]
    task: String,
    /// Only leases of this session
    #[arg(long, value_name = "SESSION", default_value = "", hide_default_value = true)]
    session: String,
    /// Only leases of this workload
    #[arg(long, value_name = "SPIFFE_ID", default_value = "", hide_default_value = true)]
    spiffe_id: String,
    /// Only leases of this scope
    #[arg(long, value_name = "SCOPE", default_value = "", hide_default_value = true)]
    scope: String,
    /// Those that ended too
    #[arg(long)]
    all: bool,
    /// At most this many
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
}

/// Lists or shows.
pub async fn lease(command: LeaseCommand, connect: ConnectArgs, format: Format) -> Result<(), Failure> {
    let format = format.not_yaml()?;
    let admin = connect.admin().await?;
    match command {
        LeaseCommand::List(filter) => {
            let request = v1::ListLeasesRequest {
                task_id: filter.task,
                session_id: filter.session,
                spiffe_id: filter.spiffe_id,
                scope: filter.scope,
                include_ended: filter.all,
                limit: filter.limit,
            };
            let leases = answer(admin.client().list_leases(request)).await?.leases;
            let leases: Vec<LeaseView> = leases.into_iter().map(LeaseView::from).collect();
            match format {
                Format::Json => output::json(&BTreeMap::from([("leases", &leases)]))?,
                Format::Table | Format::Yaml => output::text(&list(&leases))?,
            }
        }
        LeaseCommand::Show { id } => {
            let lease = answer(admin.client().get_lease(v1::GetLeaseRequest { lease_id: id })).await?.lease;
            let lease =
                LeaseView::from(lease.ok_or_else(|| Failure::new("the broker's answer holds no lease"))?);
            match format {
                Format::Json => output::json(&lease)?,
                Format::Table | Format::Yaml => output::text(&facts(&lease))?,
            }
        }
    }
    Ok(())
}

/// A lease as programs read it; the field names are stable.
#[derive(Debug, Serialize)]
pub struct LeaseView {
    pub lease_id: String,
    pub task_id: String,
    pub session_id: String,
    pub spiffe_id: String,
    pub scope: String,
    pub parameters: BTreeMap<String, String>,
    pub provider: String,
    pub state: String,
    pub outcome: Option<String>,
    pub promise: Option<Promise>,
    pub opened_at: Option<At>,
    pub expires_at: Option<At>,
    pub revoke_requested_at: Option<At>,
    pub runs_out_at: Option<At>,
    pub ended_at: Option<At>,
    pub evidence: Option<String>,
    pub attempts: u32,
    pub last_error: Option<String>,
    pub renews: Option<String>,
    pub on_agent_loss: Option<String>,
}

impl From<v1::Lease> for LeaseView {
    fn from(wire: v1::Lease) -> Self {
        LeaseView {
            lease_id: wire.lease_id,
            task_id: wire.task_id,
            session_id: wire.session_id,
            spiffe_id: wire.spiffe_id,
            scope: wire.scope,
            parameters: wire::sorted(wire.parameters),
            provider: wire.provider,
            state: wire.state,
            outcome: some(wire.outcome),
            promise: wire.promise.map(Promise::from),
            opened_at: wire::at(wire.opened_at),
            expires_at: wire::at(wire.expires_at),
            revoke_requested_at: wire::at(wire.revoke_requested_at),
            runs_out_at: wire::at(wire.runs_out_at),
            ended_at: wire::at(wire.ended_at),
            evidence: some(wire.evidence),
            attempts: wire.attempts,
            last_error: some(wire.last_error),
            renews: some(wire.renews),
            on_agent_loss: some(wire.on_agent_loss),
        }
    }
}

/// How far a lease is taken back. `verified` only where the target said so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nobody asked to take it back.
    Held,
    /// The target confirmed the end.
    Verified,
    /// There was never a credential.
    NeverIssued,
    /// The target cannot take it back; it works until its expiry, or did.
    RunsOut,
    /// The broker is still at it.
    Revoking,
}

impl LeaseView {
    /// How far it is taken back. What a newer broker may say is never read as taken back.
    pub fn standing(&self) -> Standing {
        match (self.state.as_str(), self.outcome.as_deref()) {
            ("pending" | "active", _) => Standing::Held,
            ("ended", Some("verified")) => Standing::Verified,
            ("ended", Some("never_issued")) => Standing::NeverIssued,
            ("ended", Some("ran_out")) => Standing::RunsOut,
            ("revoking", _) if self.runs_out_at.is_some() => Standing::RunsOut,
            _ => Standing::Revoking,
        }
    }

    /// Where it stands, in words, and what of it nobody takes back.
    pub fn told(&self) -> String {
        let stays = self.promise.as_ref().map(|promise| promise.leaves_behind.join(", "));
        match stays.filter(|stays| !stays.is_empty() && self.standing() != Standing::NeverIssued) {
            Some(stays) => format!("{}, leaves behind: {stays}", self.stands()),
            None => self.stands(),
        }
    }

    fn stands(&self) -> String {
        let time = wire::or_dash;
        match self.standing() {
            Standing::Held => format!("{} until {}", self.state, time(self.expires_at)),
            Standing::Verified => match &self.evidence {
                Some(evidence) => format!("verified ({evidence})"),
                None => "verified".to_owned(),
            },
            Standing::NeverIssued => "never issued".to_owned(),
            Standing::RunsOut if self.state == "ended" => format!("ran out at {}", time(self.ended_at)),
            Standing::RunsOut => format!("runs out at {}", time(self.runs_out_at)),
            Standing::Revoking => {
                let attempts = match self.attempts {
                    1 => "1 attempt".to_owned(),
                    more => format!("{more} attempts"),
                };
                let error = self.last_error.as_ref().map(|error| format!(", last error: {error}"));
                let since = time(self.revoke_requested_at);
                format!("still revoking since {since} ({attempts}{})", error.unwrap_or_default())
            }
        }
    }

    /// `scope(parameters)`.
    pub fn asked(&self) -> String {
        wire::scope(&self.scope, &self.parameters)
    }
}

/// Leases as a table.
pub fn list(leases: &[LeaseView]) -> String {
    let row = |lease: &LeaseView| {
        [
            lease.lease_id.clone(),
            lease.asked(),
            lease.spiffe_id.clone(),
            lease.task_id.clone(),
            wire::or_dash(lease.opened_at),
            lease.told(),
        ]
    };
    output::table(["LEASE", "SCOPE", "SPIFFE ID", "TASK", "OPENED", "STATE"], leases.iter().map(row))
}

fn facts(lease: &LeaseView) -> String {
    let optional = |text: &Option<String>| text.clone().unwrap_or_default();
    let time = |at: Option<At>| at.map(|at| at.to_string()).unwrap_or_default();
    output::facts([
        ("lease", lease.lease_id.clone()),
        ("state", lease.told()),
        ("scope", lease.asked()),
        ("provider", lease.provider.clone()),
        ("spiffe id", lease.spiffe_id.clone()),
        ("task", lease.task_id.clone()),
        ("session", lease.session_id.clone()),
        ("promise", lease.promise.as_ref().map(ToString::to_string).unwrap_or_default()),
        ("agent silent", optional(&lease.on_agent_loss)),
        ("opened", time(lease.opened_at)),
        ("expires", time(lease.expires_at)),
        ("revoke asked", time(lease.revoke_requested_at)),
        ("ended", time(lease.ended_at)),
        ("evidence", optional(&lease.evidence)),
        ("last error", optional(&lease.last_error)),
        ("renews", optional(&lease.renews)),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(state: &str, outcome: &str) -> v1::Lease {
        let second = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
        v1::Lease {
            state: state.into(),
            outcome: outcome.into(),
            expires_at: second(60),
            revoke_requested_at: second(30),
            ended_at: second(40),
            attempts: 2,
            last_error: "503".into(),
            ..v1::Lease::default()
        }
    }

    #[test]
    fn what_a_lease_leaves_behind_is_said_however_it_ended() {
        let leaves = |lease: v1::Lease| {
            let promise = v1::RevocationPromise {
                leaves_behind: vec!["role_sessions".into(), "keys".into()],
                ..v1::RevocationPromise::default()
            };
            LeaseView::from(v1::Lease { promise: Some(promise), ..lease }).told()
        };
        assert_eq!(leaves(lease("ended", "verified")), "verified, leaves behind: role_sessions, keys");
        assert!(leaves(lease("active", "")).ends_with(", leaves behind: role_sessions, keys"));
        assert_eq!(leaves(lease("ended", "never_issued")), "never issued");
    }

    #[test]
    fn where_a_lease_stands_is_said_as_its_target_said_it() {
        let runs_out = Some(prost_types::Timestamp { seconds: 50, nanos: 0 });
        for (lease, standing, told) in [
            (lease("active", ""), Standing::Held, "active until 1970-01-01T00:01:00Z"),
            (lease("pending", ""), Standing::Held, "pending until 1970-01-01T00:01:00Z"),
            (lease("ended", "verified"), Standing::Verified, "verified"),
            (
                v1::Lease { evidence: "404".into(), ..lease("ended", "verified") },
                Standing::Verified,
                "verified (404)",
            ),
            (lease("ended", "never_issued"), Standing::NeverIssued, "never issued"),
            (lease("ended", "ran_out"), Standing::RunsOut, "ran out at 1970-01-01T00:00:40Z"),
            (
                v1::Lease { runs_out_at: runs_out, ..lease("revoking", "") },
                Standing::RunsOut,
                "runs out at 1970-01-01T00:00:50Z",
            ),
            (
                lease("revoking", ""),
                Standing::Revoking,
                "still revoking since 1970-01-01T00:00:30Z (2 attempts, last error: 503)",
            ),
            (
                lease("ended", "of a later version"),
                Standing::Revoking,
                "still revoking since 1970-01-01T00:00:30Z (2 attempts, last error: 503)",
            ),
        ] {
            let view = LeaseView::from(lease);
            assert_eq!((view.standing(), view.told().as_str()), (standing, told));
        }
    }
}
