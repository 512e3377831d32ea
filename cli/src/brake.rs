//! `dayfly brake`: whether ends of silent nodes are held back, and letting them go.

use clap::{Args, Subcommand};
use dayfly_client::v1;
use serde::Serialize;

use crate::connect::{ConnectArgs, answer};
use crate::failure::Failure;
use crate::output::{self, Format};
use crate::wire::{self, At, some};

const RELEASE_EXAMPLES: &str = "\
Examples:
  dayfly brake show
  dayfly brake release --reason 'rack 7 has burnt down'

What is held back ends at once: the tasks of every node that is silent now, with their leases. Nodes that fall silent \
later are counted anew.";

/// See and release the brake on mass lapse
#[derive(Subcommand, Debug)]
pub enum BrakeCommand {
    /// Say whether ends of silent nodes are held back, of which, and why
    Show,
    /// Let the silent nodes lapse
    Release(ReleaseArgs),
}

/// Lets the silent nodes lapse.
#[derive(Args, Debug)]
#[command(after_long_help = RELEASE_EXAMPLES)]
pub struct ReleaseArgs {
    /// Why; it is recorded
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    reason: String,
}

/// Shows or releases.
pub async fn brake(command: BrakeCommand, connect: ConnectArgs, format: Format) -> Result<(), Failure> {
    let format = format.not_yaml()?;
    let admin = connect.admin().await?;
    match command {
        BrakeCommand::Show => {
            let told = answer(admin.client().get_brake(v1::GetBrakeRequest {})).await?.brake;
            let view = BrakeView::from(told.unwrap_or_default());
            match format {
                Format::Json => output::json(&view)?,
                Format::Table | Format::Yaml => output::text(&show(&view))?,
            }
        }
        BrakeCommand::Release(ReleaseArgs { reason }) => {
            let released = answer(admin.client().release_brake(v1::ReleaseBrakeRequest { reason })).await?;
            let released = Released { nodes: released.nodes };
            match format {
                Format::Json => output::json(&released)?,
                Format::Table | Format::Yaml => output::text(&match released.nodes.len() {
                    0 => "released; no node's end was held back\n".to_owned(),
                    1 => "released; 1 silent node lapses\n".to_owned(),
                    more => format!("released; {more} silent nodes lapse\n"),
                })?,
            }
        }
    }
    Ok(())
}

/// The brake as programs read it; the field names are stable.
#[derive(Debug, Serialize)]
struct BrakeView {
    holds: bool,
    reason: Option<String>,
    nodes: Vec<String>,
    open_tasks: u32,
    silent: u32,
    of: u32,
    engaged_at: Option<At>,
    holds_until: Option<At>,
    released_at: Option<At>,
    released_by: Option<String>,
}

#[derive(Serialize)]
struct Released {
    nodes: Vec<String>,
}

impl From<v1::Brake> for BrakeView {
    fn from(wire: v1::Brake) -> Self {
        BrakeView {
            holds: !wire.nodes.is_empty(),
            reason: some(wire.reason),
            nodes: wire.nodes,
            open_tasks: wire.open_tasks,
            silent: wire.silent,
            of: wire.of,
            engaged_at: wire::at(wire.engaged_at),
            holds_until: wire::at(wire.holds_until),
            released_at: wire::at(wire.released_at),
            released_by: some(wire.released_by),
        }
    }
}

fn show(brake: &BrakeView) -> String {
    let held = match (brake.holds, brake.reason.as_deref()) {
        (false, _) => "nothing is held back".to_owned(),
        (true, Some("broker_was_away")) => {
            "held back until the broker has listened for long enough".to_owned()
        }
        (true, _) => format!("held back: {} of {} nodes fell silent at once", brake.silent, brake.of),
    };
    let released = match (&brake.released_by, brake.released_at) {
        (Some(by), Some(at)) => format!("{at} by {by}"),
        _ => String::new(),
    };
    let facts = output::facts([
        ("brake", held),
        ("nodes", brake.nodes.len().to_string()),
        ("open tasks", brake.open_tasks.to_string()),
        ("since", brake.engaged_at.map(|at| at.to_string()).unwrap_or_default()),
        ("until", brake.holds_until.map(|at| at.to_string()).unwrap_or_default()),
        ("released", released),
    ]);
    if brake.nodes.is_empty() {
        return facts;
    }
    format!("{facts}\n{}", output::table(["HELD NODE"], brake.nodes.iter().map(|node| [node.clone()])))
}
