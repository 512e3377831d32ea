//! `dayfly apply`: puts documents in place, whole or not at all, and shows what changes.

mod applied;

use std::io::{BufRead, IsTerminal};
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use dayfly_client::v1;

use self::applied::Applied;
pub use self::applied::{Change, Fault};
use crate::ceiling::key_value;
use crate::connect::{Admin, ConnectArgs, answer};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{self, Format};
use crate::sources;

const EXAMPLES: &str = "\
Examples:
  dayfly apply -f scopes.yaml --dry-run
  dayfly apply -f scopes.yaml --expected-revision 41
  dayfly apply -f documents/ --dry-run
  cat *.yaml | dayfly apply -f - --prune --selector team=ml --live revoke --yes

Everything is checked first; with one fault nothing is applied. On a terminal you are shown the change and asked. \
Elsewhere nobody is asked, but what removes documents or revokes leases needs --yes.

Exit codes: 0 changed or unchanged, 1 faults or a refusal.";

/// Apply documents (kind: Stage, Scope, Binding, Policy, Node)
#[derive(Args, Debug)]
#[command(after_long_help = EXAMPLES)]
pub struct ApplyArgs {
    /// YAML documents separated by ---; - reads standard input; of a folder every *.yaml, and each folder of *.rego as a
    /// policy of its name
    #[arg(short, long, value_name = "FILE|FOLDER")]
    file: PathBuf,
    /// Only say what would change
    #[arg(long)]
    dry_run: bool,
    /// Remove documents that match the selector and are not in the file
    #[arg(long, requires = "selector")]
    prune: bool,
    /// Labels (metadata.labels) of the documents that --prune may remove; all must match
    #[arg(long, value_name = "KEY=VALUE,…", value_parser = key_value, value_delimiter = ',', requires = "prune")]
    selector: Vec<(String, String)>,
    /// What becomes of live leases that no binding carries any more
    #[arg(long, value_enum, default_value_t = Live::Drain)]
    live: Live,
    /// Refuse unless this revision stands
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    expected_revision: Option<u64>,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Live {
    /// They are not renewed and run to the end of their task
    Drain,
    /// They are revoked at once
    Revoke,
}

/// Shows, asks where somebody can answer, applies.
pub async fn apply(args: ApplyArgs, connect: ConnectArgs, format: Format) -> Result<Exit, Failure> {
    let format = format.not_yaml()?;
    let request = args.request()?;
    let admin = connect.admin().await?;
    let person = format == Format::Table && std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
    if !args.looks_first(person) {
        let done = call(&admin, request, &args).await?;
        done.print(format)?;
        return Ok(done.exit());
    }

    let preview = call(&admin, v1::ApplyRequest { dry_run: true, ..request.clone() }, &args).await?;
    if !preview.faults.is_empty() || preview.changes_nothing() {
        preview.print(format)?;
        return Ok(preview.exit());
    }
    if !person {
        if preview.takes_away() {
            preview.print(format)?;
            let next = "look at the changes above, then apply again with --yes";
            return Err(
                Failure::new("this removes documents or revokes leases, and nobody can be asked").next(next)
            );
        }
    } else {
        preview.print(format)?;
        output::ask("apply this? [y/N] ")?;
        if !confirmed(&mut std::io::stdin().lock())? {
            return Err(Failure::new("nothing was applied").next("answer y, or give --yes"));
        }
    }
    // What was shown is what is applied: a change in between is refused.
    let request = v1::ApplyRequest { expected_revision: preview.revision, ..request };
    let done = call(&admin, request, &args).await?;
    if person && done.faults.is_empty() {
        output::text(&done.summary())?;
    } else {
        done.print(format)?;
    }
    Ok(done.exit())
}

impl ApplyArgs {
    /// Whether the change is looked at before it is made: by a person, or for what it would take away.
    fn looks_first(&self, person: bool) -> bool {
        let may_take_away = self.prune || self.live == Live::Revoke;
        !self.dry_run && !self.yes && (person || may_take_away)
    }

    fn request(&self) -> Result<v1::ApplyRequest, Failure> {
        let live = match self.live {
            Live::Drain => v1::LivePolicy::Drain,
            Live::Revoke => v1::LivePolicy::Revoke,
        };
        Ok(v1::ApplyRequest {
            yaml: sources::read(&self.file)?,
            expected_revision: self.expected_revision.unwrap_or_default(),
            dry_run: self.dry_run,
            prune: self.prune,
            selector: self.selector.iter().cloned().collect(),
            live: live.into(),
        })
    }
}

/// Whether a person said a clear yes.
pub fn confirmed(person: &mut impl BufRead) -> Result<bool, Failure> {
    let mut answer = String::new();
    person.read_line(&mut answer).map_err(|error| Failure::new("cannot read the answer").because(&error))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

async fn call(admin: &Admin, request: v1::ApplyRequest, args: &ApplyArgs) -> Result<Applied, Failure> {
    let dry_run = request.dry_run;
    let answer = answer(admin.client().apply(request)).await?;
    Ok(Applied::read(answer, dry_run, args.live))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed step fails the test")]
mod tests {
    use clap::{CommandFactory, FromArgMatches, Parser};

    use super::*;

    #[derive(Parser)]
    struct Just {
        #[command(flatten)]
        apply: ApplyArgs,
    }

    #[test]
    fn a_person_is_asked_and_a_script_only_for_what_it_takes_away() {
        for (line, person, looks_first) in [
            ("-f x", true, true),
            ("-f x", false, false),
            ("-f x --yes", true, false),
            ("-f x --dry-run", true, false),
            ("-f x --live revoke", false, true),
            ("-f x --prune --selector a=b", false, true),
            ("-f x --prune --selector a=b --yes", false, false),
        ] {
            let matches = Just::command().get_matches_from(std::iter::once("apply").chain(line.split(' ')));
            let args = Just::from_arg_matches(&matches).unwrap().apply;
            assert_eq!(args.looks_first(person), looks_first, "{line}, person: {person}");
        }
    }

    #[test]
    fn only_a_clear_yes_is_one() {
        for (said, meant) in
            [("y\n", true), ("yes\n", true), ("n\n", false), ("\n", false), ("", false), ("yo\n", false)]
        {
            assert_eq!(confirmed(&mut said.as_bytes()).unwrap(), meant, "{said:?}");
        }
    }
}
