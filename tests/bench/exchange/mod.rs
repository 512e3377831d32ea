//! One IssueCredential after another by X.509-SVID, each caller over a connection of its own and in a task of its own; a new
//! row and a new `jti` each time, nothing cached, every one audited. Beside it, the same number of connections create tokens
//! at a Vault on the same disk.

mod ours;
mod proof;
mod site;
mod theirs;

use std::time::Duration;

use crate::load::drive;
use crate::report::{Case, Report, say};
use ours::Exchanger;
use site::Site;
use theirs::Creator;

pub use site::name_of;

/// What may be chosen.
#[derive(clap::Args)]
pub struct Options {
    /// How long each side is measured in each case
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..3600))]
    seconds: u64,
    /// Callers at once, one case each
    #[arg(long, value_delimiter = ',', default_value = "1,32,256")]
    callers: Vec<usize>,
}

const WARM_UP: Duration = Duration::from_secs(2);

/// Measures, then proves that what was counted is there.
///
/// # Errors
/// When a part does not start, a call fails, or rows, records and exchanges do not agree.
pub async fn run(options: &Options) -> anyhow::Result<Report> {
    let length = Duration::from_secs(options.seconds);
    say("starting a broker on development identities, and a Vault");
    let site = Site::start().await?;
    let peer = site.peer_name().await?;
    let mut report = Report::default();
    // Their connections stay open to the end: a task lives as long as its stream, and ends would burden the next case.
    let mut held = Vec::new();
    for &callers in &options.callers {
        say(&format!("{callers} callers: {} s ours, {} s theirs", options.seconds, options.seconds));
        let ours = drive(Exchanger::many(&site, callers).await?, WARM_UP, length).await?;
        held.extend(ours.callers);
        let theirs = drive(Creator::many(&site.vault, callers).await?, WARM_UP, length).await?;
        let case = format!("token/{callers}");
        let (ours, theirs) = ((ours.per_second, &ours.times), (theirs.per_second, &theirs.times));
        report.cases.push(Case::beside("exchange", case, "1/s", ours, &peer, theirs));
    }
    say("comparing exchanges, rows and audit records");
    report.notes.push(proof::check(&site, &held).await?);
    Ok(report)
}
