//! `dayfly doctor`: whether a target is set up so that the broker can take back, and give no more than it should.

use std::io::Read;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use dayfly_domain::aws_doctor::{self, Account, Expected, Finding, MAX_ACCOUNT, Report};
use dayfly_domain::document;

use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{self, BAD, BOLD, FAINT, Format, GOOD, paint, printable};
use crate::sources;

const AWS_EXAMPLES: &str = "\
Examples:
  aws iam get-account-authorization-details --filter Role LocalManagedPolicy > account.json
  dayfly doctor aws --account account.json --issuer https://issuer.example.com --revoker dayfly/revoker -f scopes.yaml

It asks neither AWS nor the broker: the account is as an administrator's own credentials described it.

Exit codes: 0 nothing found, 1 findings.";

/// Targets that can be looked at
#[derive(Subcommand, Debug)]
pub enum DoctorCommand {
    /// Look at an AWS account: trust policies, boundaries, and what the revoker may do
    Aws(AwsArgs),
}

/// Look at an AWS account: trust policies, boundaries, and what the revoker may do
#[derive(Args, Debug)]
#[command(after_long_help = AWS_EXAMPLES)]
pub struct AwsArgs {
    /// The account, as `aws iam get-account-authorization-details` describes it
    #[arg(long, value_name = "FILE")]
    account: PathBuf,
    /// Documents with the scopes whose roles are looked at; - reads standard input
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,
    /// issuer.url of the broker's configuration
    #[arg(long, value_name = "URL")]
    issuer: String,
    /// aws.audience of the broker's configuration
    #[arg(long, default_value = "sts.amazonaws.com")]
    audience: String,
    /// aws.revoker.role of the broker's configuration, if it has one
    #[arg(long, value_name = "ROLE")]
    revoker: Option<String>,
}

/// Looks, and tells.
pub fn doctor(command: DoctorCommand, format: Format) -> Result<Exit, Failure> {
    let DoctorCommand::Aws(args) = command;
    let format = format.not_yaml()?;
    let report = aws_doctor::examine(&read(&args.account)?, &expected(&args)?);
    match format {
        Format::Json => output::json(&report)?,
        Format::Table | Format::Yaml => output::text(&told(&report))?,
    }
    Ok(if report.findings.is_empty() { Exit::Done } else { Exit::Failed })
}

fn read(path: &Path) -> Result<Account, Failure> {
    let cannot = |error: &(dyn std::error::Error + 'static)| {
        Failure::new(format!("cannot read {}", path.display())).because(error)
    };
    let mut text = String::new();
    let most = u64::try_from(MAX_ACCOUNT).unwrap_or(u64::MAX);
    let file = std::fs::File::open(path).map_err(|error| cannot(&error))?;
    file.take(most).read_to_string(&mut text).map_err(|error| cannot(&error))?;
    Account::read(&text).map_err(|error| cannot(&error))
}

fn expected(args: &AwsArgs) -> Result<Expected, Failure> {
    let issuer = args.issuer.strip_prefix("https://").filter(|rest| !rest.is_empty() && !rest.ends_with('/'));
    let issuer =
        issuer.ok_or_else(|| Failure::usage("--issuer is https://host[/path], as issuer.url says it"))?;
    let (documents, mut faults) = document::parse(&sources::read(&args.file)?);
    let scopes: Vec<_> =
        documents.into_iter().filter(|(_, one)| one.key.kind == document::Kind::Scope).collect();
    let rules = document::compile(0, &[], &scopes).map_err(|more| faults.extend(more));
    let Ok(rules) = rules else {
        let mut failure = Failure::new("the documents have faults, so nothing was looked at")
            .next("correct them; dayfly apply --dry-run tells the same");
        failure.told.causes = faults.iter().map(|fault| printable(&fault.to_string())).collect();
        return Err(failure);
    };
    let pools: Vec<_> = rules.scopes().filter_map(|scope| aws_doctor::pool_of(scope)).collect();
    if pools.is_empty() {
        return Err(
            Failure::new("no scope in the documents has an AWS target").next("name the file that holds them")
        );
    }
    Ok(Expected {
        issuer: issuer.to_owned(),
        audience: args.audience.clone(),
        revoker: args.revoker.clone(),
        pools,
    })
}

fn told(report: &Report) -> String {
    let found = |finding: &&Finding, role: &String| finding.role == *role;
    let strangers =
        report.findings.iter().map(|finding| &finding.role).filter(|role| !report.roles.contains(role));
    let mut roles: Vec<&String> = report.roles.iter().chain(strangers).collect();
    roles.dedup();
    let mut text = String::new();
    for role in roles {
        let findings: Vec<&Finding> = report.findings.iter().filter(|finding| found(finding, role)).collect();
        let (style, word) = if findings.is_empty() { (GOOD, "sound") } else { (BAD, "wrong") };
        text.push_str(&format!("{}  {}\n", paint(style, word), paint(BOLD, &printable(role))));
        for Finding { what, why, next, .. } in findings {
            text.push_str(&format!(
                "    {}\n    {}\n    {} {next}\n",
                printable(what),
                paint(FAINT, why),
                paint(BOLD, "next:")
            ));
        }
    }
    text
}
