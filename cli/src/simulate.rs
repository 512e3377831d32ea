//! `dayfly simulate`: which recorded requests would newly be denied or allowed, were documents applied.

mod view;

use std::path::PathBuf;

use clap::{Args, builder::NonEmptyStringValueParser};
use dayfly_client::v1::{self, simulate_request::Begin, simulate_response::Event};
use dayfly_domain::time::{Timestamp, Ttl};

use self::view::Simulated;
use crate::ceiling::key_value;
use crate::connect::{ConnectArgs, answer};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{self, Format};
use crate::sources;
use crate::wire;

const EXAMPLES: &str = "\
Each recorded request is decided twice, by the code that decides: under the documents that stand, and under those with the \
file laid over them. Who asked, the tasks, the approvals and the time stay as they were. Nothing is changed and no target \
is asked.

Examples:
  dayfly simulate -f bindings.yaml
  dayfly simulate -f documents/ --prune --selector team=ml --since 30d
  dayfly simulate -f policies/short-lives --since 2026-12-01T08:00:00Z --scope s3-train-read -o json

Exit codes: 0 nothing that is allowed would be denied, 6 something would, 1 the documents have faults or nobody answered.";

/// Which recorded requests documents would newly deny or allow
#[derive(Args, Debug)]
#[command(after_long_help = EXAMPLES)]
pub struct SimulateArgs {
    /// YAML documents separated by ---; - reads standard input; of a folder every *.yaml, and each folder of *.rego as a
    /// policy of its name
    #[arg(short, long, value_name = "FILE|FOLDER")]
    file: PathBuf,
    /// Replay the requests of this span up to now, or from a moment on: 7d, 2026-12-01T08:00:00Z
    #[arg(long, value_name = "SPAN|TIME", default_value = "7d", value_parser = begin)]
    since: Begin,
    /// As if documents were removed that match the selector and are not in the file
    #[arg(long, requires = "selector")]
    prune: bool,
    /// Labels (metadata.labels) of the documents that --prune may remove; all must match
    #[arg(long, value_name = "KEY=VALUE,…", value_parser = key_value, value_delimiter = ',', requires = "prune")]
    selector: Vec<(String, String)>,
    /// Only requests of this identity
    #[arg(long, value_name = "SPIFFE_ID", value_parser = NonEmptyStringValueParser::new())]
    spiffe_id: Option<String>,
    /// Only requests whose record names this scope
    #[arg(long, short = 's', value_name = "SCOPE", value_parser = NonEmptyStringValueParser::new())]
    scope: Option<String>,
}

/// A span back from now by the broker's clock, or a moment.
fn begin(text: &str) -> Result<Begin, String> {
    if let Ok(span) = text.parse::<Ttl>() {
        return Ok(Begin::Back(wire::duration(span)));
    }
    let moment = text.parse::<Timestamp>().map(|at| Begin::Since(wire::timestamp(at)));
    moment.map_err(|_| "write it like 7d or 12h, or like 2026-12-01T08:00:00Z (RFC 3339)".to_owned())
}

/// Asks, shows how far it has come, prints.
pub async fn simulate(args: SimulateArgs, connect: ConnectArgs, format: Format) -> Result<Exit, Failure> {
    let format = format.not_yaml()?;
    let request = v1::SimulateRequest {
        yaml: sources::read(&args.file)?,
        prune: args.prune,
        selector: args.selector.into_iter().collect(),
        begin: Some(args.since),
        spiffe_id: args.spiffe_id.unwrap_or_default(),
        scope: args.scope.unwrap_or_default(),
    };
    let admin = connect.admin().await?;
    let mut events = answer(admin.questions().simulate(request)).await?;
    let shows = output::shows_progress(format);
    let told = listen(&mut events, shows).await;
    if shows {
        output::progress("");
    }
    let view = told?;
    match format {
        Format::Json => output::json(&view)?,
        Format::Table | Format::Yaml => output::text(&view.told())?,
    }
    Ok(view.exit())
}

async fn listen(
    events: &mut tonic::Streaming<v1::SimulateResponse>,
    shows: bool,
) -> Result<Simulated, Failure> {
    let mut view = Simulated::default();
    while let Some(message) = events.message().await? {
        match message.event {
            Some(Event::Proposal(proposal)) => view.propose(proposal),
            Some(Event::Progress(progress)) if shows => {
                let v1::SimulationProgress { records, at } = progress;
                output::progress(&format!("{records} records read, up to {}", wire::or_dash(wire::at(at))));
            }
            Some(Event::Group(group)) => view.add(group),
            Some(Event::Summary(summary)) => view.finish(summary),
            Some(Event::Progress(_)) | None => {}
        }
    }
    if view.is_whole() {
        return Ok(view);
    }
    Err(Failure::new("the answer broke off before its end").next("ask again; the broker's log says why"))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed step fails the test")]
mod tests {
    use super::*;

    #[test]
    fn since_is_a_span_or_a_moment_and_nothing_else() {
        let week = prost_types::Duration { seconds: 604_800, nanos: 0 };
        assert_eq!(begin("7d").unwrap(), Begin::Back(week));
        let moment = prost_types::Timestamp { seconds: 1_700_000_000, nanos: 0 };
        assert_eq!(begin("2023-11-14T22:13:20Z").unwrap(), Begin::Since(moment));
        for text in ["", "7", "yesterday", "2023-11-14", "-7d"] {
            assert!(begin(text).is_err(), "{text}");
        }
    }
}
