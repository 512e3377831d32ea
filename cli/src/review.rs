//! `dayfly review`: what bindings give, what was used of it, and the narrower documents that would have sufficed.

mod propose;
mod view;

use std::path::PathBuf;

use clap::{Args, builder::NonEmptyStringValueParser};
use dayfly_client::v1;
use dayfly_domain::time::Ttl;

use self::view::Review;
use crate::connect::{Admin, ConnectArgs, answer};
use crate::failure::Failure;
use crate::output::{self, Format};
use crate::wire;

pub use self::view::{BindingView, Verdict};

const EXAMPLES: &str = "\
What was not used is proposed away: never more than the binding gives now, and all that was used since then stays. \
Proposals are documents: look at them, then apply them.

Examples:
  dayfly review
  dayfly review --since 30d --scope s3-train-read
  dayfly review --spiffe-id spiffe://example.org/training/llm
  dayfly review --propose narrower.yaml && dayfly apply -f narrower.yaml --dry-run
  dayfly review --binding train-data -o yaml";

/// How far back, if nothing is said.
pub const DEFAULT_BACK: &str = "90d";

/// Say what was used of bindings, and propose narrower ones
#[derive(Args, Debug)]
#[command(after_long_help = EXAMPLES)]
pub struct ReviewArgs {
    /// How far back records are read
    #[arg(long, value_name = "SPAN", default_value = DEFAULT_BACK)]
    since: Ttl,
    /// Only this binding
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new(), group = "what")]
    binding: Option<String>,
    /// Only the bindings on this scope
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new(), group = "what")]
    scope: Option<String>,
    /// Only the bindings for this identity
    #[arg(long, value_name = "ID", value_parser = NonEmptyStringValueParser::new(), group = "what")]
    spiffe_id: Option<String>,
    /// Write the proposals there: into one new file, or one new file each into a folder
    #[arg(long, value_name = "DIR|FILE")]
    propose: Option<PathBuf>,
}

/// Asks, prints, and writes what is proposed.
pub async fn review(args: ReviewArgs, connect: ConnectArgs, format: Format) -> Result<(), Failure> {
    let ReviewArgs { since, binding, scope, spiffe_id, propose } = args;
    let admin = connect.admin().await?;
    let request = v1::ReviewRequest {
        since: Some(wire::duration(since)),
        binding: binding.unwrap_or_default(),
        scope: scope.unwrap_or_default(),
        spiffe_id: spiffe_id.unwrap_or_default(),
    };
    let review = ask(&admin, request).await?;
    match format {
        Format::Json => output::json(&review)?,
        Format::Yaml => output::raw(propose::whole(&review).as_bytes()).map(drop)?,
        Format::Table => output::text(&view::show(&review))?,
    }
    if let Some(path) = propose {
        output::note(&propose::write(&path, &review)?);
    }
    Ok(())
}

/// The broker's answer.
pub async fn ask(admin: &Admin, request: v1::ReviewRequest) -> Result<Review, Failure> {
    Ok(Review::from(answer(admin.questions().review(request)).await?))
}
