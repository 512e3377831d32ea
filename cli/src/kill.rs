//! `dayfly kill`: cuts off what is named until that is lifted, and tells what came of what was live.

mod view;

use clap::{Args, Subcommand};
use dayfly_client::v1;
use dayfly_domain::time::Ttl;

use self::view::{KillView, Outcome, WidthView};
use crate::connect::{Admin, ConnectArgs, answer};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{self, Format};
use crate::revoke::wait;

const EXAMPLES: &str = "\
Examples:
  dayfly kill --spiffe-id spiffe://prod.example/training/trainer --dry-run
  dayfly kill --pattern 'spiffe://prod.example/agents/**' --reason 'leaked keys, INC-7'
  dayfly kill --scope s3-train-read --reason 'bucket compromised'
  dayfly kill approve 01JZX0Q4V9N3F7T2K8M5R6W1YB --digest 3f5a…
  dayfly kill lift 01JZX0Q4V9N3F7T2K8M5R6W1YB
  sudo dayfly kill --everything --reason 'INC-7' --break-glass /run/dayfly/break-glass.sock

Whoever is cut off gets nothing from then on, whatever bindings say; open tasks end, credentials are taken back. It \
survives restarts and does not run out. Admins and nodes are spared unless --spiffe-id or --node names them. A kill that \
ends much waits for a second admin; over the break-glass socket it does not, and raises an alarm. To end one lease, task or \
session, use `dayfly revoke`.

Exit codes: 0 all is verified or was never issued, 3 some run out, 4 some are still being taken back or not every agent has \
answered, 7 it waits for a second admin.";

/// Cut off an identity, a scope, a node … until that is lifted
#[derive(Args, Debug)]
#[command(after_long_help = EXAMPLES, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct KillArgs {
    #[command(subcommand)]
    command: Option<KillCommand>,
    #[command(flatten)]
    target: TargetArgs,
    /// Why, in one line; recorded
    #[arg(long, value_name = "TEXT", required_unless_present = "dry_run")]
    reason: Option<String>,
    /// Only say what it would end, and whose that is
    #[arg(long)]
    dry_run: bool,
    /// How long to wait for agents and targets; at most 30s
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = wait)]
    wait: Ttl,
}

#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
struct TargetArgs {
    /// One identity, whatever it is
    #[arg(long, value_name = "SPIFFE_ID")]
    spiffe_id: Option<String>,
    /// Every workload that the pattern takes in
    #[arg(long, value_name = "PATTERN")]
    pattern: Option<String>,
    /// Every workload of a trust domain
    #[arg(long, value_name = "NAME")]
    trust_domain: Option<String>,
    /// A node agent, its tasks and whoever comes through it
    #[arg(long, value_name = "SPIFFE_ID")]
    node: Option<String>,
    /// A scope, whoever asks
    #[arg(long, value_name = "NAME")]
    scope: Option<String>,
    /// Every scope of a provider
    #[arg(long, value_name = "NAME")]
    provider: Option<String>,
    /// Every workload
    #[arg(long)]
    everything: bool,
}

#[derive(Subcommand, Debug)]
enum KillCommand {
    /// List what is cut off, newest first
    List {
        /// Also what was lifted
        #[arg(long)]
        all: bool,
    },
    /// Say yes to a wide kill that another admin asked for
    Approve {
        /// Its id
        id: String,
        /// Its digest, as `dayfly kill list` shows it: what was looked at is what is approved
        #[arg(long)]
        digest: String,
        /// How long to wait for agents and targets; at most 30s
        #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = wait)]
        wait: Ttl,
    },
    /// Let what was cut off ask again, or take back a kill that waits; what was ended stays over
    Lift {
        /// Its id
        id: String,
    },
}

/// Kills, lists, approves or lifts.
pub async fn kill(args: KillArgs, connect: ConnectArgs, format: Format) -> Result<Exit, Failure> {
    let format = format.not_yaml()?;
    let admin = connect.admin().await?;
    match args.command {
        None if args.dry_run => preview(&admin, args.target, format).await,
        None => {
            let request = v1::KillRequest {
                target: args.target.wire(),
                reason: args.reason.unwrap_or_default(),
                dry_run: false,
                wait_ms: millis(args.wait),
            };
            told(answer(admin.revocations().kill(request)).await?.outcome, format)
        }
        Some(KillCommand::Approve { id, digest, wait }) => {
            let request = v1::ApproveKillRequest { kill_id: id, digest, wait_ms: millis(wait) };
            told(answer(admin.revocations().approve_kill(request)).await?.outcome, format)
        }
        Some(KillCommand::Lift { id }) => {
            let request = v1::LiftKillRequest { kill_id: id };
            let lifted = answer(admin.revocations().lift_kill(request)).await?.kill.unwrap_or_default();
            let lifted = KillView::from(lifted);
            match format {
                Format::Json => output::json(&lifted)?,
                Format::Table | Format::Yaml => output::text(&format!("{} is lifted\n", lifted.target()))?,
            }
            Ok(Exit::Done)
        }
        Some(KillCommand::List { all }) => {
            let request = v1::ListKillsRequest { include_lifted: all };
            let kills = answer(admin.revocations().list_kills(request)).await?.kills;
            let kills: Vec<KillView> = kills.into_iter().map(KillView::from).collect();
            match format {
                Format::Json => output::json(&kills)?,
                Format::Table | Format::Yaml => output::text(&view::list(&kills))?,
            }
            Ok(Exit::Done)
        }
    }
}

async fn preview(admin: &Admin, target: TargetArgs, format: Format) -> Result<Exit, Failure> {
    let request = v1::KillRequest { target: target.wire(), dry_run: true, ..Default::default() };
    let outcome = answer(admin.revocations().kill(request)).await?.outcome.unwrap_or_default();
    let width = outcome.width.unwrap_or_default();
    let width = WidthView::from(width);
    match format {
        Format::Json => output::json(&width)?,
        Format::Table | Format::Yaml => output::text(&width.told())?,
    }
    Ok(Exit::Done)
}

fn told(outcome: Option<v1::KillOutcome>, format: Format) -> Result<Exit, Failure> {
    let outcome = Outcome::from(outcome.unwrap_or_default());
    match format {
        Format::Json => output::json(&outcome)?,
        Format::Table | Format::Yaml => output::text(&outcome.told())?,
    }
    Ok(outcome.exit())
}

fn millis(wait: Ttl) -> u32 {
    u32::try_from(wait.as_millis()).unwrap_or(u32::MAX)
}

impl TargetArgs {
    fn wire(self) -> Option<v1::KillTarget> {
        let TargetArgs { spiffe_id, pattern, trust_domain, node, scope, provider, everything } = self;
        let named = [
            ("identity", spiffe_id),
            ("pattern", pattern),
            ("trust_domain", trust_domain),
            ("node", node),
            ("scope", scope),
            ("provider", provider),
            ("everything", everything.then(String::new)),
        ];
        let named = named.into_iter().find_map(|(kind, name)| name.map(|name| (kind.to_owned(), name)));
        named.map(|(kind, name)| v1::KillTarget { kind, name })
    }
}
