//! `dayfly key`: the life of the keys that sign the broker's tokens.

mod view;

use std::collections::BTreeMap;
use std::io::IsTerminal;

use clap::{Args, Subcommand, ValueEnum};
use dayfly_client::v1;
use serde::Serialize;

use self::view::{ConsequenceView, KeyView, table};
use crate::apply::confirmed;
use crate::connect::{Admin, ConnectArgs, answer};
use crate::failure::Failure;
use crate::output::{self, Format, printable};

const ROTATE_EXAMPLES: &str = "\
Examples:
  dayfly key rotate access

The key that stands by signs from now on: relying parties have read it long ago. The one before it stays published for \
as long as what it signed lives. A new key stands by, and can be rotated to 11 minutes later. Where the documents are \
served as files, export them anew.";

const COMPROMISE_EXAMPLES: &str = "\
Examples:
  dayfly key compromise NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs --dry-run
  dayfly key compromise NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs --yes --reason 'disk of broker-1 was copied'

The key is out at once, and every token it signed is refused by whoever asks the broker. The others must do what is \
printed. If somebody has the folder of keys, name the key that stands by too.";

/// See and change signing keys
#[derive(Subcommand, Debug)]
pub enum KeyCommand {
    /// List the keys of each use with their state
    List,
    /// Sign with the key that stands by from now on, and make a new one that stands by
    #[command(after_long_help = ROTATE_EXAMPLES)]
    Rotate {
        /// What the keys are for
        #[arg(value_enum)]
        r#use: Use,
    },
    /// Take out a key that nobody needs: one that never signed, or whose tokens are all over
    Retire {
        /// The key's kid
        kid: String,
    },
    /// Take out a key that somebody else may have, and say what each relying party must do
    Compromise(CompromiseArgs),
}

/// What a key signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Use {
    /// Access tokens, for services
    Access,
    /// Assertions to clouds
    Federation,
    /// Receipts, for guards of artifacts
    Receipt,
}

/// Take out a key that somebody else may have
#[derive(Args, Debug)]
#[command(after_long_help = COMPROMISE_EXAMPLES)]
pub struct CompromiseArgs {
    /// The key's kid
    kid: String,
    /// Why; goes on record
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    reason: String,
    /// Change nothing; say what would be to do
    #[arg(long, conflicts_with = "yes")]
    dry_run: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

/// Does it.
pub async fn key(command: KeyCommand, connect: ConnectArgs, format: Format) -> Result<(), Failure> {
    let format = format.not_yaml()?;
    let admin = connect.admin().await?;
    match command {
        KeyCommand::List => {
            let keys = answer(admin.keys()?.list_keys(v1::ListKeysRequest {})).await?.keys;
            print_keys(keys, format)
        }
        KeyCommand::Rotate { r#use } => {
            let name = r#use.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
            let wish = v1::RotateKeyRequest { r#use: name };
            let rotated = answer(admin.keys()?.rotate_key(wish)).await?;
            print_keys(rotated.keys, format)
        }
        KeyCommand::Retire { kid } => {
            let retired = answer(admin.keys()?.retire_key(v1::RetireKeyRequest { kid })).await?;
            print_retired(retired, format)
        }
        KeyCommand::Compromise(args) => compromise(&admin, args, format).await,
    }
}

fn print_keys(keys: Vec<v1::Key>, format: Format) -> Result<(), Failure> {
    let keys: Vec<KeyView> = keys.into_iter().map(KeyView::from).collect();
    match format {
        Format::Json => output::json(&BTreeMap::from([("keys", &keys)]))?,
        Format::Table | Format::Yaml => output::text(&table(&keys))?,
    }
    Ok(())
}

fn print_retired(retired: v1::RetireKeyResponse, format: Format) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Whole {
        key: Option<KeyView>,
        by_hand: Vec<String>,
    }
    let whole = Whole { key: retired.key.map(KeyView::from), by_hand: lines(&retired.by_hand) };
    match format {
        Format::Json => output::json(&whole)?,
        Format::Table | Format::Yaml => {
            output::text(&format!("{}{}", table(whole.key.as_slice()), by_hand(&whole.by_hand)))?;
        }
    }
    Ok(())
}

/// Shows what follows, asks, and takes the key out.
async fn compromise(admin: &Admin, args: CompromiseArgs, format: Format) -> Result<(), Failure> {
    let ask = |dry_run: bool| v1::CompromiseKeyRequest {
        kid: args.kid.clone(),
        dry_run,
        reason: args.reason.clone(),
    };
    if args.yes {
        let done = answer(admin.keys()?.compromise_key(ask(false))).await?;
        return print_compromised(done, false, format);
    }
    let would = answer(admin.keys()?.compromise_key(ask(true))).await?;
    if args.dry_run {
        return print_compromised(would, true, format);
    }
    let person = format == Format::Table && std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
    if format == Format::Table {
        print_compromised(would, true, format)?;
    }
    if !person {
        return Err(Failure::new("nobody can be asked whether this is meant; the key is as it was")
            .next("look at it with --dry-run, then take it out with --yes"));
    }
    output::ask("take this key out? It cannot be brought back. [y/N] ")?;
    if !confirmed(&mut std::io::stdin().lock())? {
        return Err(Failure::new("the key is as it was").next("answer y"));
    }
    let done = answer(admin.keys()?.compromise_key(ask(false))).await?;
    print_compromised(done, false, format)
}

fn print_compromised(told: v1::CompromiseKeyResponse, dry_run: bool, format: Format) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Whole {
        dry_run: bool,
        key: Option<KeyView>,
        successor: Option<KeyView>,
        consequences: Vec<ConsequenceView>,
        by_hand: Vec<String>,
    }
    let whole = Whole {
        dry_run,
        key: told.key.map(KeyView::from),
        successor: told.successor.map(KeyView::from),
        consequences: told.consequences.into_iter().map(ConsequenceView::from).collect(),
        by_hand: lines(&told.by_hand),
    };
    if format == Format::Json {
        return Ok(output::json(&whole)?);
    }
    let both: Vec<KeyView> = whole.key.into_iter().chain(whole.successor.clone()).collect();
    let mut text = table(&both);
    if whole.successor.is_none() {
        text += "no key of this use signs until one was published for long enough\n";
    }
    text += "\n";
    text.extend(whole.consequences.iter().map(ConsequenceView::text));
    text += &by_hand(&whole.by_hand);
    Ok(output::text(&text)?)
}

fn by_hand(lines: &[String]) -> String {
    lines.iter().map(|line| format!("to do where the keys are held: {}\n", printable(line))).collect()
}

fn lines(text: &str) -> Vec<String> {
    text.lines().map(str::to_owned).collect()
}
