//! `dayfly who-can`: who may have a scope, or touch a target.

use std::collections::BTreeMap;

use clap::{Args, builder::NonEmptyStringValueParser};
use dayfly_client::v1;
use serde::Serialize;

use crate::ceiling::key_value;
use crate::connect::{ConnectArgs, answer};
use crate::failure::Failure;
use crate::output::{self, BOLD, Format, ODD, paint};
use crate::question::{BoundView, HorizonView, labelled};
use crate::wire::{self, At};

const EXAMPLES: &str = "\
A text that is no scope's name is looked for in what targets may become: a bucket, an audience, a Vault policy. Values in \
braces are filled in as the text says.

Examples:
  dayfly who-can s3-train-read
  dayfly who-can s3-train-read --param dataset=corpus-8
  dayfly who-can train-data/corpus-8
  dayfly who-can admin.apply";

/// Who may have a scope, or touch a target
#[derive(Args, Debug)]
#[command(after_long_help = EXAMPLES)]
pub struct WhoCanArgs {
    /// A scope's name, or a piece of text in a target
    #[arg(value_name = "SCOPE|TARGET", value_parser = NonEmptyStringValueParser::new())]
    what: String,
    /// Only with this value of a parameter; may be given more than once
    #[arg(long, short = 'p', value_name = "KEY=VALUE", value_parser = key_value)]
    param: Vec<(String, String)>,
}

/// Asks and prints.
pub async fn who_can(args: WhoCanArgs, connect: ConnectArgs, format: Format) -> Result<(), Failure> {
    let format = format.not_yaml()?;
    let admin = connect.admin().await?;
    let request = v1::WhoCanRequest { what: args.what, parameters: args.param.into_iter().collect() };
    let view = WhoCan::from(answer(admin.questions().who_can(request)).await?);
    match format {
        Format::Json => output::json(&view)?,
        Format::Table | Format::Yaml => output::text(&show(&view))?,
    }
    Ok(())
}

/// The answer as programs read it; the field names are stable.
#[derive(Debug, Serialize)]
struct WhoCan {
    at: Option<At>,
    revision: u64,
    scopes: Vec<HeldView>,
    root_admins: Vec<String>,
}

#[derive(Debug, Serialize)]
struct HeldView {
    scope: String,
    description: Option<String>,
    provider: Option<String>,
    stages: Vec<String>,
    places: Vec<PlaceView>,
    holders: Vec<HolderView>,
    more: bool,
    live: Vec<LiveView>,
}

#[derive(Debug, Serialize)]
struct PlaceView {
    path: String,
    text: String,
    parameters: BTreeMap<String, String>,
}

#[derive(Debug, Serialize)]
struct HolderView {
    #[serde(flatten)]
    bound: BoundView,
    somebody: Option<String>,
}

#[derive(Debug, Serialize)]
struct LiveView {
    spiffe_id: String,
    leases: u32,
    horizon: HorizonView,
}

impl From<v1::WhoCanResponse> for WhoCan {
    fn from(wire: v1::WhoCanResponse) -> Self {
        WhoCan {
            at: wire::at(wire.at),
            revision: wire.revision,
            scopes: wire.scopes.into_iter().map(HeldView::from).collect(),
            root_admins: wire.root_admins,
        }
    }
}

impl From<v1::HeldScope> for HeldView {
    fn from(wire: v1::HeldScope) -> Self {
        let place = |place: v1::TargetPlace| PlaceView {
            path: place.path,
            text: place.text,
            parameters: wire::sorted(place.parameters),
        };
        let holder = |holder: v1::Holder| HolderView {
            bound: BoundView::from(holder.bound.unwrap_or_default()),
            somebody: wire::some(holder.somebody),
        };
        let live = |live: v1::LiveHolder| LiveView {
            spiffe_id: live.spiffe_id,
            leases: live.leases,
            horizon: live.horizon.into(),
        };
        HeldView {
            scope: wire.scope,
            description: wire::some(wire.description),
            provider: wire::some(wire.provider),
            stages: wire.stages,
            places: wire.places.into_iter().map(place).collect(),
            holders: wire.holders.into_iter().map(holder).collect(),
            more: wire.more,
            live: wire.live.into_iter().map(live).collect(),
        }
    }
}

fn show(told: &WhoCan) -> String {
    let mut parts: Vec<String> = told.scopes.iter().map(show_scope).collect();
    if !told.root_admins.is_empty() {
        let rows = told.root_admins.iter().map(|id| [id.clone()]);
        parts.push(output::table(["ROOT ADMINS, WHO MAY DO ALL OF IT"], rows));
    }
    parts.join("\n")
}

fn show_scope(held: &HeldView) -> String {
    let mut shown = format!("{}\n", paint(BOLD, &held.scope));
    let about = output::facts([
        ("for", held.description.clone().unwrap_or_default()),
        ("stages", held.stages.join(", ")),
        ("provider", held.provider.clone().unwrap_or_default()),
    ]);
    shown.push_str(&about);
    for place in &held.places {
        let values: Vec<String> =
            place.parameters.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let with = if values.is_empty() { String::new() } else { format!(", with {}", values.join(", ")) };
        shown.push_str(&output::printable(&format!("target    {} = {:?}{with}\n", place.path, place.text)));
    }
    shown.push('\n');
    let holders: String = held.holders.iter().map(show_holder).collect();
    shown.push_str(if holders.is_empty() { "no binding gives it to anybody\n" } else { &holders });
    if held.more {
        shown.push_str(&format!(
            "{}\n",
            paint(ODD, "there are more bindings than fit into one answer: give --param")
        ));
    }
    if !held.live.is_empty() {
        let row = |live: &LiveView| {
            [
                live.spiffe_id.clone(),
                live.leases.to_string(),
                wire::or_dash(live.horizon.at_the_latest),
                wire::or_dash(live.horizon.if_ended_now),
            ]
        };
        let headings = ["HOLDS IT NOW", "LEASES", "OVER BY", "IF ENDED NOW"];
        shown.push_str(&format!("\n{}", output::table(headings, held.live.iter().map(row))));
    }
    shown
}

/// Whom a binding is for, what it gives for use with what a decision says of it, and to whom it may be handed on.
fn show_holder(holder: &HolderView) -> String {
    let bound = &holder.bound;
    let mut shown = format!("  {}\n", output::printable(&bound.identities.join(", ")));
    if bound.may_use {
        match holder.somebody {
            Some(_) => bound.given().into_iter().for_each(|given| {
                let values = Some(given.values).filter(|values| values != "-");
                let lines: Vec<String> = values.into_iter().chain(given.place).collect();
                shown.push_str(&labelled("may use", &lines));
            }),
            // The verbs of administration are not decided: who is bound may do them.
            None if bound.is_of_admins() => {
                shown.push_str(&labelled("may", std::slice::from_ref(&bound.scope)))
            }
            None => {
                let nobody = "never: nobody it is for fills a stage that the scope serves";
                shown.push_str(&labelled("may use", &[nobody.to_owned()]));
            }
        }
    }
    if let Some(to) = bound.hands_on() {
        shown.push_str(&labelled("hands on", &[bound.values(), format!("to {to}")]));
    }
    shown.push_str(&labelled("binding", &[bound.by()]));
    shown
}
