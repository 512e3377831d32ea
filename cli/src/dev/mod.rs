//! `dayfly dev`: Dayfly on a laptop. One process serves a development trust domain, starts broker and agent as its
//! children, and takes them down again.
//!
//! One user plays every role on a laptop, so each role has a Workload API socket of its own: programs (and the agent, when
//! it asks who a program is), services that check tokens, the admin, and our own parts. All of it lies in folders that
//! only this user can enter.

mod config;
mod fetch;
mod identities;
mod parts;
mod place;
mod shell;
mod starter;
mod targets;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

use self::identities::Identities;
use self::parts::{Bins, Part};
use self::place::Place;
use self::targets::TargetArgs;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output;

/// How long a part may take to answer for the first time.
const READY_WITHIN: Duration = Duration::from_secs(30);

const EXAMPLES: &str = "\
Examples:
  dayfly dev                                       state in ./.dayfly, until Ctrl-C
  eval \"$(dayfly dev env)\"                         in the shell next to it
  dayfly dev --aws-endpoint http://127.0.0.1:5000  with a local service that speaks AWS STS
  dayfly dev --vault http://127.0.0.1:8200         with a local Vault

Identities are handed out by user id in the trust domain dev.dayfly, which no broker or agent of a release takes.";

/// Run Dayfly for development on this machine
#[derive(Args, Debug)]
#[command(after_long_help = EXAMPLES, args_conflicts_with_subcommands = true)]
pub struct DevArgs {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    start: StartArgs,
}

#[derive(Args, Debug)]
struct DirArgs {
    /// Where keys, state, configuration and logs are kept
    #[arg(long, value_name = "FOLDER", default_value = ".dayfly")]
    dir: PathBuf,
}

#[derive(Args, Debug)]
struct StartArgs {
    #[command(flatten)]
    place: DirArgs,
    #[command(flatten)]
    targets: TargetArgs,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Print what a shell exports to use it: eval "$(dayfly dev env)"
    Env(DirArgs),
    /// Stop it, from another shell
    Stop(DirArgs),
    /// Fetch the SVIDs of your programs as files and text, for those that speak to no Workload API
    Fetch(fetch::FetchArgs),
    /// Become a part that ends with its parent
    #[command(hide = true)]
    Part {
        /// The process it must not outlive
        #[arg(long)]
        parent: i32,
        /// The program and its arguments
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
}

/// Does what the command line says. With `verbose` the logs of all parts are followed, else only warnings.
pub async fn run(args: DevArgs, verbose: bool) -> Result<Exit, Failure> {
    match args.verb {
        None => start(args.start, verbose).await,
        Some(Verb::Env(place)) => shell::print_env(&place.dir),
        Some(Verb::Stop(place)) => shell::stop(&place.dir).await,
        Some(Verb::Fetch(args)) => fetch::fetch(args).await,
        Some(Verb::Part { parent, command }) => Err(parts::become_part(parent, &command)),
    }
}

async fn start(args: StartArgs, verbose: bool) -> Result<Exit, Failure> {
    let targets = args.targets.check()?;
    let bins = Bins::beside_us()?;
    let place = Place::take(&args.place.dir)?;
    let mut stop = Stop::new()?;
    let identities = Identities::serve(&place).await?;
    config::write(&place, &targets)?;

    let mut broker = Part::start("broker", bins.broker(&place), &place, verbose)?;
    identities.admit_broker(broker.pid())?;
    let mut attest = Part::start("attest", bins.attest(&place), &place, verbose)?;
    identities.admit_attest(attest.pid())?;

    let up = async {
        let admin = starter::connect(&place, &mut broker).await?;
        let applied = starter::apply_if_empty(&admin).await?;
        let mut agent = Part::start("agent", bins.agent(&place), &place, verbose)?;
        identities.admit_agent(agent.pid())?;
        starter::wait_for_agent(&admin, &place, &mut agent, &mut attest).await?;
        Ok::<_, Failure>((admin, agent, applied))
    };
    let (admin, mut agent, applied) = tokio::select! {
        up = up => up?,
        () = stop.told() => return Ok(Exit::Done),
    };

    place.tell()?;
    output::text(&shell::welcome(&place, &targets, applied))?;

    let ended = tokio::select! {
        () = stop.told() => None,
        ended = broker.ended() => Some(ended),
        ended = attest.ended() => Some(ended),
        ended = agent.ended() => Some(ended),
    };
    output::note("dayfly dev: stopping");
    place.forget();
    if ended.is_none() {
        starter::take_back(&admin, &place).await;
    }
    // Agents first: they tell the broker what ended.
    for part in [&mut agent, &mut attest, &mut broker] {
        part.stop().await;
    }
    identities.stop().await;
    match ended {
        None => Ok(Exit::Done),
        Some(failure) => Err(failure),
    }
}

/// Ctrl-C, `dayfly dev stop`, or the terminal's end.
struct Stop([tokio::signal::unix::Signal; 3]);

impl Stop {
    fn new() -> Result<Self, Failure> {
        let listen =
            |kind| signal(kind).map_err(|error| Failure::new("cannot listen for signals").because(&error));
        Ok(Self([
            listen(SignalKind::interrupt())?,
            listen(SignalKind::terminate())?,
            listen(SignalKind::hangup())?,
        ]))
    }

    async fn told(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}
