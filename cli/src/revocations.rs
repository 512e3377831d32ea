//! `dayfly revocations`: what waits to be taken back, since when, why, and whose it is.

use clap::Args;
use dayfly_client::v1;
use serde::Serialize;

use crate::connect::{ConnectArgs, answer};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::leases::LeaseView;
use crate::output::{self, Format};
use crate::wire::{self, At, some};

const EXAMPLES: &str = "\
Examples:
  dayfly revocations --stuck
  dayfly revocations --provider vault --retry

A revocation is tried until its target confirms it or the credential is over; nothing is ever dropped. One that failed \
often is stuck: it is tried less often, and counted in dayfly_broker_revocations_stuck. While a target fails every time, \
one revocation at a time finds out whether it is back.

Exit codes: 0 nothing is stuck, 4 something is.";

/// See what waits to be taken back, since when and why
#[derive(Args, Debug)]
#[command(after_long_help = EXAMPLES)]
pub struct RevocationsArgs {
    /// Only of one provider
    #[arg(long, value_name = "NAME")]
    provider: Option<String>,
    /// Only what is stuck
    #[arg(long)]
    stuck: bool,
    /// Try all of it again now
    #[arg(long, conflicts_with = "stuck")]
    retry: bool,
    /// At most this many, most urgent and oldest first
    #[arg(long, value_name = "N", default_value_t = 200)]
    limit: u32,
}

/// Lists, after a retry if that was asked for.
pub async fn revocations(
    args: RevocationsArgs,
    connect: ConnectArgs,
    format: Format,
) -> Result<Exit, Failure> {
    let format = format.not_yaml()?;
    let admin = connect.admin().await?;
    let provider = args.provider.unwrap_or_default();
    if args.retry {
        let request = v1::RetryRevocationsRequest { provider: provider.clone() };
        let retried = answer(admin.revocations().retry_revocations(request)).await?.revocations;
        output::note(&format!("{retried} are tried again now"));
    }
    let request = v1::ListRevocationsRequest { provider, stuck: args.stuck, limit: args.limit };
    let waiting = Waiting::from(answer(admin.revocations().list_revocations(request)).await?);
    match format {
        Format::Json => output::json(&waiting)?,
        Format::Table | Format::Yaml => output::text(&waiting.told())?,
    }
    let stuck = waiting.queues.iter().any(|queue| queue.stuck > 0);
    Ok(if stuck { Exit::StillRevoking } else { Exit::Done })
}

/// The queue as programs read it; the field names are stable.
#[derive(Serialize)]
struct Waiting {
    queues: Vec<QueueView>,
    revocations: Vec<RowView>,
}

#[derive(Serialize)]
struct QueueView {
    provider: String,
    queued: u64,
    stuck: u64,
    oldest: Option<At>,
    paused_until: Option<At>,
}

#[derive(Serialize)]
struct RowView {
    urgency: String,
    attempts: u32,
    next_at: Option<At>,
    stuck: bool,
    last_error: Option<String>,
    lease: LeaseView,
}

impl From<v1::ListRevocationsResponse> for Waiting {
    fn from(wire: v1::ListRevocationsResponse) -> Self {
        let queue = |queue: v1::RevocationQueue| QueueView {
            provider: queue.provider,
            queued: queue.queued,
            stuck: queue.stuck,
            oldest: wire::at(queue.oldest),
            paused_until: wire::at(queue.paused_until),
        };
        let row = |row: v1::QueuedRevocation| RowView {
            urgency: row.urgency,
            attempts: row.attempts,
            next_at: wire::at(row.next_at),
            stuck: row.stuck,
            last_error: some(row.last_error),
            lease: row.lease.unwrap_or_default().into(),
        };
        Self {
            queues: wire.queues.into_iter().map(queue).collect(),
            revocations: wire.revocations.into_iter().map(row).collect(),
        }
    }
}

impl Waiting {
    fn told(&self) -> String {
        if self.queues.is_empty() {
            return "nothing waits to be taken back\n".to_owned();
        }
        let queue = |queue: &QueueView| {
            let target = match queue.paused_until {
                Some(until) => format!("away; tried again at {until}"),
                None => "answers".to_owned(),
            };
            [
                queue.provider.clone(),
                queue.queued.to_string(),
                queue.stuck.to_string(),
                wire::or_dash(queue.oldest),
                target,
            ]
        };
        let row = |row: &RowView| {
            [
                row.lease.lease_id.clone(),
                row.lease.asked(),
                row.lease.spiffe_id.clone(),
                row.urgency.clone(),
                wire::or_dash(row.lease.revoke_requested_at),
                if row.stuck { format!("{} (stuck)", row.attempts) } else { row.attempts.to_string() },
                wire::or_dash(row.next_at),
                row.last_error.clone().unwrap_or_default(),
            ]
        };
        let queues =
            output::table(["PROVIDER", "QUEUED", "STUCK", "OLDEST", "TARGET"], self.queues.iter().map(queue));
        let columns = ["LEASE", "SCOPE", "SPIFFE ID", "WHY", "SINCE", "TRIES", "NEXT", "LAST ERROR"];
        format!("{queues}\n{}", output::table(columns, self.revocations.iter().map(row)))
    }
}
