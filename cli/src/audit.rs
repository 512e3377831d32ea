//! `dayfly audit`: reads the records, and shows whether anybody changed them since.
//!
//! Each record carries the hash of all before it, so a change is evident to whoever holds an earlier head. That is why
//! `verify` prints heads, and why they are kept elsewhere: a broker that rewrites a whole chain shows a whole chain.

pub mod heads;
mod record;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use dayfly_client::v1;
use dayfly_domain::audit::Stream as Chain;

use self::heads::{Broken, Chains, Head, Heads};
use self::record::{Exported, Shown, Stored};
use crate::connect::{Admin, ConnectArgs, answer};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{self, BAD, Format, GOOD, paint, printable};

const EXAMPLES: &str = "\
Examples:
  dayfly audit read --stream decision --from 100
  dayfly audit export > audit.jsonl
  dayfly audit verify --write-heads heads.json
  dayfly audit verify --file audit.jsonl --heads heads.json

Keep heads where the broker cannot reach them. A later chain must extend every head that was kept.

Exit codes of verify: 0 every chain holds, 5 one does not, 1 the records could not be read.";

/// Read and verify the audit records
#[derive(Subcommand, Debug)]
#[command(after_long_help = EXAMPLES)]
pub enum AuditCommand {
    /// Print the records of one stream; -o json prints one object a line
    Read {
        /// Which stream
        #[arg(long, value_enum)]
        stream: OneStream,
        /// First sequence number, counted from 1
        #[arg(long, value_name = "N", default_value_t = 1)]
        from: u64,
    },
    /// Print the records as stored, one JSON object a line, for `verify --file`
    Export {
        /// Which stream
        #[arg(long, value_enum, default_value_t = AnyStream::All)]
        stream: AnyStream,
    },
    /// Check the hash chains and print their heads
    Verify(VerifyArgs),
}

/// What to verify, and against what.
#[derive(Args, Debug)]
pub struct VerifyArgs {
    /// Which stream
    #[arg(long, value_enum, default_value_t = AnyStream::All)]
    stream: AnyStream,
    /// An export instead of the broker; - reads standard input
    #[arg(long, value_name = "EXPORT")]
    file: Option<PathBuf>,
    /// Heads kept from an earlier verification; each must stand in the chains
    #[arg(long, value_name = "HEADS")]
    heads: Option<PathBuf>,
    /// Keep the heads found, if every chain holds
    #[arg(long, value_name = "HEADS")]
    write_heads: Option<PathBuf>,
}

/// A stream's name on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OneStream {
    /// Every allow and deny
    Decision,
    /// Every transition of a task or lease
    Lease,
    /// Every act of an admin, and the broker's own starts and stops
    Admin,
}

/// One stream or all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AnyStream {
    /// Every allow and deny
    Decision,
    /// Every transition of a task or lease
    Lease,
    /// Every act of an admin, and the broker's own starts and stops
    Admin,
    /// Every stream
    All,
}

impl AnyStream {
    fn chains(self) -> &'static [Chain] {
        match self {
            AnyStream::Decision => &[Chain::Decision],
            AnyStream::Lease => &[Chain::Lease],
            AnyStream::Admin => &[Chain::Admin],
            AnyStream::All => &Chain::ALL,
        }
    }
}

/// Reads, exports or verifies.
pub async fn audit(command: AuditCommand, connect: ConnectArgs, format: Format) -> Result<Exit, Failure> {
    let format = format.not_yaml()?;
    match command {
        AuditCommand::Read { stream, from } => {
            let chain = match stream {
                OneStream::Decision => Chain::Decision,
                OneStream::Lease => Chain::Lease,
                OneStream::Admin => Chain::Admin,
            };
            let admin = connect.admin().await?;
            from_broker(&admin, chain, from, |stored| {
                let shown = Shown::of(&stored);
                match format {
                    Format::Json => Ok(output::json_line(&shown)?),
                    Format::Table | Format::Yaml => {
                        Ok(output::raw(format!("{}\n", shown.told()).as_bytes())?)
                    }
                }
            })
            .await?;
            Ok(Exit::Done)
        }
        AuditCommand::Export { stream } => {
            let admin = connect.admin().await?;
            for chain in stream.chains() {
                let write = |stored: Stored| Ok(output::json_line(&Exported::from(stored))?);
                if !from_broker(&admin, *chain, 1, write).await? {
                    break;
                }
            }
            Ok(Exit::Done)
        }
        AuditCommand::Verify(args) => verify(args, connect, format).await,
    }
}

async fn verify(args: VerifyArgs, connect: ConnectArgs, format: Format) -> Result<Exit, Failure> {
    let kept = args.heads.as_deref().map(heads::read).transpose()?.unwrap_or_default();
    let wanted = |stream: &str| args.stream.chains().iter().any(|chain| chain.as_str() == stream);
    let mut chains = Chains::expecting(kept.heads.into_iter().filter(|head| wanted(&head.stream)));
    match &args.file {
        Some(path) => from_file(path, |stored| {
            if wanted(&stored.stream) {
                chains.take(&stored);
            }
        })?,
        None => {
            let admin = connect.admin().await?;
            // What brokers saw of each other's chains up to now must be in them.
            let hear = |stored: Stored| {
                chains.hear_before(&stored);
                Ok(true)
            };
            from_broker(&admin, Chain::Admin, 1, hear).await?;
            for chain in args.stream.chains() {
                let take = |stored: Stored| {
                    chains.take(&stored);
                    Ok(true)
                };
                from_broker(&admin, *chain, 1, take).await?;
            }
        }
    }
    let (heads, broken) = chains.finish();
    match format {
        Format::Json => {
            output::json(&Verdict { holds: broken.is_empty(), heads: &heads.heads, broken: &broken })?
        }
        Format::Table | Format::Yaml => output::text(&told(&heads, &broken))?,
    }
    if !broken.is_empty() {
        return Ok(Exit::ChainBroken);
    }
    if let Some(path) = &args.write_heads {
        heads::write(path, &heads)?;
    }
    Ok(Exit::Done)
}

#[derive(serde::Serialize)]
struct Verdict<'a> {
    holds: bool,
    heads: &'a [Head],
    broken: &'a [Broken],
}

fn told(heads: &Heads, broken: &[Broken]) -> String {
    let row =
        |head: &Head| [head.stream.clone(), head.writer.clone(), head.seq.to_string(), head.hash.clone()];
    let table = output::table(["STREAM", "WRITER", "RECORDS", "HEAD"], heads.heads.iter().map(row));
    let faults: String = broken
        .iter()
        .map(|fault| format!("{} {}\n", paint(BAD, "broken:"), printable(&fault.told())))
        .collect();
    let verdict = match (broken.is_empty(), heads.heads.is_empty()) {
        (true, true) => "there are no records".to_owned(),
        (true, false) => paint(GOOD, "every chain holds"),
        (false, _) => paint(BAD, "the records were changed after they were written"),
    };
    format!("{table}{faults}{verdict}\n")
}

/// Hands over records in order until there are no more or `take` has enough. Says whether it wanted more.
async fn from_broker(
    admin: &Admin,
    chain: Chain,
    from_seq: u64,
    mut take: impl FnMut(Stored) -> Result<bool, Failure>,
) -> Result<bool, Failure> {
    let request = v1::ReadAuditRequest { stream: chain.as_str().to_owned(), from_seq };
    let mut records = answer(admin.client().read_audit(request)).await?;
    while let Some(record) = records.message().await? {
        if !take(Stored::from(record))? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn from_file(path: &Path, mut take: impl FnMut(Stored)) -> Result<(), Failure> {
    let cannot =
        |error: std::io::Error| Failure::new(format!("cannot read {}", path.display())).because(&error);
    let reader: Box<dyn BufRead> = if path == Path::new("-") {
        Box::new(std::io::stdin().lock())
    } else {
        Box::new(BufReader::new(File::open(path).map_err(cannot)?))
    };
    for (number, line) in (1..).zip(reader.lines()) {
        let line = line.map_err(cannot)?;
        let stored = Exported::read(&line).map_err(|fault| {
            Failure::new(format!("line {number} of {} is no exported record: {fault}", path.display()))
                .next("give a file that `dayfly audit export` wrote")
        })?;
        take(stored);
    }
    Ok(())
}

/// Records of several writers, each a chain of its own.
type PerChain<T> = BTreeMap<(String, String), T>;
