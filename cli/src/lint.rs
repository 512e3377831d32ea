//! `dayfly lint`: what is legal in documents and still a mistake, as they stand or as a file would make them.

mod at_hand;

use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use clap::{Args, ValueEnum};
use dayfly_domain::document::{self, Document, Fault, Kind};
use dayfly_domain::lint::{self, Finding, MAX_ENTRIES_INPUT, Severity};
use dayfly_domain::node::TrustDomainRule;
use dayfly_domain::pattern::SpiffePattern;
use dayfly_domain::stage::Stage;
use dayfly_domain::time::{Timestamp, Ttl};
use serde::Serialize;

use crate::connect::{Admin, ConnectArgs};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{self, BAD, BOLD, FAINT, Format, GOOD, ODD, paint, printable};
use crate::review::DEFAULT_BACK;
use crate::sources;

const EXAMPLES: &str = "\
Examples:
  dayfly lint
  dayfly lint -f bindings.yaml
  dayfly lint -f all.yaml --offline --fail-on error
  spire-server entry show -output json > entries.json && dayfly lint --spire-entries entries.json

Exit codes: 0 nothing at or above --fail-on, 1 findings, or documents with faults.";

/// Name what is legal in documents and still a mistake
#[derive(Args, Debug)]
#[command(after_long_help = EXAMPLES)]
pub struct LintArgs {
    /// Documents to lay over those that stand, as apply would; - reads standard input
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Look at the file alone, without a broker
    #[arg(long, requires = "file")]
    offline: bool,
    /// SPIRE's entries, as `spire-server entry show -output json` prints them
    #[arg(long, value_name = "FILE")]
    spire_entries: Option<PathBuf>,
    /// How far back bindings are held against what was used of them
    #[arg(long, value_name = "SPAN", default_value = DEFAULT_BACK, conflicts_with = "offline")]
    since: Ttl,
    /// Which findings make the command fail
    #[arg(long, value_enum, default_value_t = FailOn::Warning)]
    fail_on: FailOn,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum FailOn {
    /// All
    Warning,
    /// Errors
    Error,
}

/// Reads, checks, tells.
pub async fn lint(args: LintArgs, connect: ConnectArgs, format: Format) -> Result<Exit, Failure> {
    #[derive(Serialize)]
    struct Whole<'a> {
        findings: &'a [Finding],
    }
    let format = format.not_yaml()?;
    let (mut whole, mut faults) = match &args.file {
        Some(file) => document::parse(&sources::read(file)?),
        None => (Vec::new(), Vec::new()),
    };
    let changed = whole.iter().filter(|(_, document)| document.key.kind == Kind::Binding);
    let changed: BTreeSet<String> = changed.map(|(_, document)| document.key.name.clone()).collect();
    let admin = match args.offline {
        true => None,
        false => Some(connect.admin().await?),
    };
    let domains = match &admin {
        Some(admin) => lay_over(admin, &mut whole, &mut faults).await?,
        None => believed(&whole),
    };
    let rules = document::compile(0, &domains, &whole);
    let rules = rules.map_err(|more| unsound(faults.iter().chain(&more)));
    if !faults.is_empty() {
        return Err(unsound(faults.iter()));
    }
    let mut findings = lint::check(&rules?, now());
    findings.extend(whole.iter().flat_map(|(number, document)| on_claims(*number, document)));
    if let Some(admin) = &admin {
        findings.extend(at_hand::by_use(admin, args.since, &changed).await?);
        findings.extend(at_hand::needless_leaves_behind(admin, &whole).await);
    }
    if let Some(path) = &args.spire_entries {
        let cannot = |why: String| {
            Failure::new(format!("cannot read {}: {why}", path.display()))
                .next("write it with spire-server entry show -output json")
        };
        let dump = entries(path).map_err(|error| cannot(error.to_string()))?;
        findings.extend(lint::check_entries(&dump).map_err(cannot)?);
    }
    match format {
        Format::Json => output::json(&Whole { findings: &findings })?,
        Format::Table | Format::Yaml => output::text(&told(&findings))?,
    }
    let least = match args.fail_on {
        FailOn::Warning => Severity::Warning,
        FailOn::Error => Severity::Error,
    };
    let fails = findings.iter().any(|finding| finding.severity >= least);
    Ok(if fails { Exit::Failed } else { Exit::Done })
}

/// Puts what stands under what the file says. Answers with the trust domains that the broker's configuration admits.
async fn lay_over(
    admin: &Admin,
    whole: &mut Vec<(u32, Document)>,
    faults: &mut Vec<Fault>,
) -> Result<Vec<TrustDomainRule>, Failure> {
    let stored = at_hand::stored(admin, faults).await?;
    let kept = stored.into_iter().filter(|old| !whole.iter().any(|(_, new)| new.key == old.key));
    let kept: Vec<(u32, Document)> = kept.map(|document| (0, document)).collect();
    whole.extend(kept);
    at_hand::trust_domains(admin).await
}

/// Without a broker nobody tells which trust domains there are: those count that stages name.
fn believed(whole: &[(u32, Document)]) -> Vec<TrustDomainRule> {
    let stages = whole.iter().filter(|(_, document)| document.key.kind == Kind::Stage);
    let patterns = stages.filter_map(|(_, stage)| stage.spec.get("patterns")?.as_array()).flatten();
    let named: BTreeSet<String> = patterns
        .filter_map(|text| text.as_str()?.parse::<SpiffePattern>().ok())
        .map(|pattern| pattern.trust_domain().to_owned())
        .collect();
    let rule = |name: String| TrustDomainRule {
        stages: Stage::ALL.into(),
        patterns: format!("spiffe://{name}/**").parse().into_iter().collect(),
        name,
    };
    named.into_iter().map(rule).collect()
}

/// Rules of a policy that read nothing but what the workload says of itself.
fn on_claims(number: u32, document: &Document) -> Vec<Finding> {
    let policy = (document.key.kind == Kind::Policy).then(|| document::read_policy(number, document));
    let rules = policy.and_then(Result::ok).map(|source| dayfly_policy::lint::rests_on_claims(&source));
    let finding = |rule: dayfly_policy::lint::RestsOnClaims| Finding {
        code: "policy-on-claims",
        severity: Severity::Warning,
        document: document.key.to_string(),
        path: format!("{}:{}", rule.file, rule.line),
        what: format!("rule {} reads `input.claimed` and nothing else of the input", rule.rule),
        why: "a workload that says something else of itself gets around it",
        next: "let it rest on `proven` or `observed` too, or only narrow by it",
    };
    rules.into_iter().flatten().map(finding).collect()
}

fn entries(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    let most = u64::try_from(MAX_ENTRIES_INPUT).unwrap_or(u64::MAX);
    std::fs::File::open(path)?.take(most + 1).read_to_string(&mut text)?;
    Ok(text)
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_unix_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// Documents that could not be applied are not judged further.
fn unsound<'a>(faults: impl Iterator<Item = &'a Fault>) -> Failure {
    let mut failure = Failure::new("the documents have faults, so nothing was looked for")
        .next("correct them; dayfly apply --dry-run tells the same");
    failure.told.causes = faults.map(|fault| printable(&fault.to_string())).collect();
    failure
}

fn told(findings: &[Finding]) -> String {
    if findings.is_empty() {
        return format!("{}\n", paint(GOOD, "nothing to look at"));
    }
    let one = |finding: &Finding| {
        let style = match finding.severity {
            Severity::Error => BAD,
            Severity::Warning => ODD,
        };
        let Finding { code, severity, document, path, what, why, next } = finding;
        format!(
            "{} {}  {} {}: {}\n    {why}\n    {} {next}\n",
            paint(style, severity.as_str()),
            paint(FAINT, code),
            paint(BOLD, &printable(document)),
            printable(path),
            printable(what),
            paint(BOLD, "next:"),
        )
    };
    findings.iter().map(one).collect()
}
