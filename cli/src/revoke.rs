//! `dayfly revoke`: takes credentials back, and tells of each what its target said.

use clap::Args;
use dayfly_client::v1::{self, revoke_request::Target};
use dayfly_domain::time::Ttl;
use serde::Serialize;

use crate::connect::{ConnectArgs, answer};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::leases::{LeaseView, Standing};
use crate::output::{self, BAD, FAINT, Format, GOOD, ODD, paint, printable};

/// The broker waits no longer than this.
const MAX_WAIT: Ttl = Ttl::seconds(30);

const EXAMPLES: &str = "\
Examples:
  dayfly revoke --task 01JZX0Q4V9N3F7T2K8M5R6W1YB --reason 'wrong data set'
  dayfly revoke --spiffe-id spiffe://prod.example/training/trainer --wait 30s
  sudo dayfly revoke --session 01JZX0Q4V9N3F7T2K8M5R6W1YB --break-glass /run/dayfly/break-glass.sock

`verified` is said only where the target confirmed it. What a target cannot take back `runs out at` its expiry. \
What is `still revoking` the broker goes on trying after this command has returned.

Exit codes: 0 every lease is verified or was never issued, 3 some run out, 4 some are still being taken back.";

/// Take credentials back
#[derive(Args, Debug)]
#[command(after_long_help = EXAMPLES)]
pub struct RevokeArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Why; recorded
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    reason: String,
    /// How long to wait for what the targets say; at most 30s
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = wait)]
    wait: Ttl,
}

#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
struct TargetArgs {
    /// One lease; its task goes on
    #[arg(long, value_name = "LEASE")]
    lease: Option<String>,
    /// A task and all under it
    #[arg(long, value_name = "TASK")]
    task: Option<String>,
    /// A whole tree of tasks
    #[arg(long, value_name = "SESSION")]
    session: Option<String>,
    /// Every task this workload opened and every lease it holds
    #[arg(long, value_name = "SPIFFE_ID")]
    spiffe_id: Option<String>,
}

/// Revokes, waits, tells.
pub async fn revoke(args: RevokeArgs, connect: ConnectArgs, format: Format) -> Result<Exit, Failure> {
    let format = format.not_yaml()?;
    let request = v1::RevokeRequest {
        target: args.target.wire(),
        reason: args.reason,
        wait_ms: u32::try_from(args.wait.as_millis()).unwrap_or(u32::MAX),
    };
    let admin = connect.admin().await?;
    let answer = answer(admin.client().revoke(request)).await?;
    let outcome = Outcome {
        tasks_ended: answer.tasks_ended,
        leases: answer.leases.into_iter().map(LeaseView::from).collect(),
    };
    match format {
        Format::Json => output::json(&outcome.view())?,
        Format::Table | Format::Yaml => output::text(&outcome.told())?,
    }
    Ok(outcome.exit())
}

impl TargetArgs {
    fn wire(self) -> Option<Target> {
        let TargetArgs { lease, task, session, spiffe_id } = self;
        lease
            .map(Target::LeaseId)
            .or(task.map(Target::TaskId))
            .or(session.map(Target::SessionId))
            .or(spiffe_id.map(Target::SpiffeId))
    }
}

/// A wait that the broker grants.
pub fn wait(text: &str) -> Result<Ttl, String> {
    let wait: Ttl = text.parse().map_err(|error: dayfly_domain::time::NotASpan| error.to_string())?;
    if wait > MAX_WAIT { Err(format!("the broker waits {MAX_WAIT} at most")) } else { Ok(wait) }
}

struct Outcome {
    tasks_ended: u32,
    leases: Vec<LeaseView>,
}

/// The outcome as programs read it; the field names are stable.
#[derive(Serialize)]
struct View<'a> {
    tasks_ended: u32,
    verified: usize,
    never_issued: usize,
    runs_out: usize,
    still_revoking: usize,
    leases: &'a [LeaseView],
}

impl Outcome {
    fn count(&self, wanted: impl Fn(Standing) -> bool) -> usize {
        self.leases.iter().filter(|lease| wanted(lease.standing())).count()
    }

    fn view(&self) -> View<'_> {
        View {
            tasks_ended: self.tasks_ended,
            verified: self.count(|standing| standing == Standing::Verified),
            never_issued: self.count(|standing| standing == Standing::NeverIssued),
            runs_out: self.count(|standing| standing == Standing::RunsOut),
            still_revoking: self.count(is_open),
            leases: &self.leases,
        }
    }

    fn exit(&self) -> Exit {
        let View { runs_out, still_revoking, .. } = self.view();
        match (still_revoking, runs_out) {
            (0, 0) => Exit::Done,
            (0, _) => Exit::RunsOut,
            (_, _) => Exit::StillRevoking,
        }
    }

    fn told(&self) -> String {
        let line = |lease: &LeaseView| {
            let style = match lease.standing() {
                Standing::Verified | Standing::NeverIssued => GOOD,
                Standing::RunsOut => ODD,
                Standing::Held | Standing::Revoking => BAD,
            };
            let said = paint(style, &printable(&lease.told()));
            let about = format!("{} {}", lease.asked(), lease.spiffe_id);
            format!("{}  {said}  {}\n", printable(&lease.lease_id), paint(FAINT, &printable(&about)))
        };
        let View { tasks_ended, verified, never_issued, runs_out, still_revoking, .. } = self.view();
        let mut counts =
            vec![format!("{tasks_ended} {} ended", if tasks_ended == 1 { "task" } else { "tasks" })];
        let named = [
            (verified, "verified"),
            (never_issued, "never issued"),
            (runs_out, "left to run out"),
            (still_revoking, "still revoking"),
        ];
        counts.extend(
            named.iter().filter(|(count, _)| *count > 0).map(|(count, name)| format!("{count} {name}")),
        );
        if self.leases.is_empty() {
            counts.push("no live leases".to_owned());
        }
        format!("{}{}\n", self.leases.iter().map(line).collect::<String>(), counts.join(", "))
    }
}

/// Held after a revocation was asked for: the broker has not come to it yet.
fn is_open(standing: Standing) -> bool {
    matches!(standing, Standing::Held | Standing::Revoking)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(leases: &[(&str, &str, bool)]) -> Outcome {
        let lease = |(state, outcome, runs_out): &(&str, &str, bool)| {
            LeaseView::from(v1::Lease {
                state: (*state).into(),
                outcome: (*outcome).into(),
                runs_out_at: runs_out.then(prost_types::Timestamp::default),
                ..v1::Lease::default()
            })
        };
        Outcome { tasks_ended: 1, leases: leases.iter().map(lease).collect() }
    }

    #[test]
    fn the_exit_code_tells_the_worst() {
        let verified = ("ended", "verified", false);
        let never = ("ended", "never_issued", false);
        let runs_out = ("revoking", "", true);
        let ran_out = ("ended", "ran_out", false);
        let revoking = ("revoking", "", false);
        let active = ("active", "", false);
        for (leases, exit) in [
            (&[][..], Exit::Done),
            (&[verified, never], Exit::Done),
            (&[verified, runs_out], Exit::RunsOut),
            (&[ran_out], Exit::RunsOut),
            (&[verified, runs_out, revoking], Exit::StillRevoking),
            (&[active], Exit::StillRevoking),
        ] {
            assert_eq!(outcome(leases).exit(), exit, "{leases:?}");
        }
    }

    #[test]
    fn a_wait_is_a_span_the_broker_grants() {
        assert_eq!(wait("30s"), Ok(Ttl::seconds(30)));
        assert!(wait("31s").is_err() && wait("10").is_err());
    }
}
