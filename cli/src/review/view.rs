//! A review as programs read it, and as people do.

use std::collections::BTreeMap;

use dayfly_client::v1;
use dayfly_domain::time::Ttl;
use serde::Serialize;

use crate::output::{BAD, BOLD, FAINT, GOOD, ODD, paint, printable};
use crate::question::{BoundView, labelled};
use crate::wire::{self, At};

/// A binding whose end is nearer than this is shown as ending.
const NEAR: Ttl = Ttl::hours(24 * 14);

/// The answer; the field names are stable.
#[derive(Debug, Serialize)]
pub struct Review {
    pub at: Option<At>,
    pub since: Option<At>,
    pub revision: u64,
    pub decisions: u64,
    pub read_to: Option<At>,
    pub bindings: Vec<BindingView>,
    pub more: bool,
}

/// A binding with what was used of it.
#[derive(Debug, Serialize)]
pub struct BindingView {
    #[serde(flatten)]
    pub bound: BoundView,
    pub applied_at: Option<At>,
    pub requested: u64,
    pub denied: BTreeMap<String, u64>,
    pub used: u64,
    pub handed_on: u64,
    pub declared: u64,
    pub last_used_at: Option<At>,
    pub in_root_tasks: u64,
    pub under_parents: u64,
    pub used_by: Vec<UsedBy>,
    pub values: Vec<UsedValue>,
    pub handed_to: Vec<UsedBy>,
    pub more_used: bool,
    pub never_used: Vec<String>,
    pub verdict: Verdict,
    pub taken: Vec<String>,
    pub proposal: Option<String>,
}

/// Who used it.
#[derive(Debug, Serialize)]
pub struct UsedBy {
    pub spiffe_id: String,
    pub times: u64,
    pub last_used_at: Option<At>,
}

/// With which value.
#[derive(Debug, Serialize)]
pub struct UsedValue {
    pub parameter: String,
    pub value: String,
    pub times: u64,
    pub last_used_at: Option<At>,
}

/// What should become of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Keep,
    Narrow,
    RemoveUnused,
    RemoveEnded,
    Undeclare,
    Withheld,
}

impl From<v1::ReviewResponse> for Review {
    fn from(wire: v1::ReviewResponse) -> Self {
        Review {
            at: wire::at(wire.at),
            since: wire::at(wire.since),
            revision: wire.revision,
            decisions: wire.decisions,
            read_to: wire::at(wire.read_to),
            bindings: wire.bindings.into_iter().map(BindingView::from).collect(),
            more: wire.more,
        }
    }
}

impl From<v1::ReviewedBinding> for BindingView {
    fn from(wire: v1::ReviewedBinding) -> Self {
        use v1::reviewed_binding::Verdict as Wire;
        let verdict = match wire.verdict() {
            Wire::Keep => Verdict::Keep,
            Wire::Narrow => Verdict::Narrow,
            Wire::RemoveUnused => Verdict::RemoveUnused,
            Wire::RemoveEnded => Verdict::RemoveEnded,
            Wire::Undeclare => Verdict::Undeclare,
            Wire::Withheld | Wire::Unspecified => Verdict::Withheld,
        };
        let by = |used: v1::UsedBy| UsedBy {
            spiffe_id: used.spiffe_id,
            times: used.times,
            last_used_at: wire::at(used.last_used_at),
        };
        let value = |used: v1::UsedValue| UsedValue {
            parameter: used.parameter,
            value: used.value,
            times: used.times,
            last_used_at: wire::at(used.last_used_at),
        };
        BindingView {
            bound: BoundView::from(wire.bound.unwrap_or_default()),
            applied_at: wire::at(wire.applied_at),
            requested: wire.requested,
            denied: wire.denied.into_iter().collect(),
            used: wire.used,
            handed_on: wire.handed_on,
            declared: wire.declared,
            last_used_at: wire::at(wire.last_used_at),
            in_root_tasks: wire.in_root_tasks,
            under_parents: wire.under_parents,
            used_by: wire.identities.into_iter().map(by).collect(),
            values: wire.values.into_iter().map(value).collect(),
            handed_to: wire.handed_to.into_iter().map(by).collect(),
            more_used: wire.more,
            never_used: wire.never_used,
            verdict,
            taken: wire.taken,
            proposal: wire::some(wire.proposal),
        }
    }
}

/// For people.
pub fn show(review: &Review) -> String {
    let Review { at, since, revision, decisions, .. } = review;
    let head = format!(
        "{decisions} decisions from {} to {}, under revision {revision}",
        wire::or_dash(*since),
        wire::or_dash(*at)
    );
    let mut shown = format!("{}\n", paint(FAINT, &head));
    if let Some(read_to) = review.read_to {
        let told = format!(
            "there are more records than one answer is made from: they were read to {read_to}, and nothing is \
             proposed. Give a shorter --since."
        );
        shown.push_str(&format!("{}\n", paint(ODD, &told)));
    }
    for one in &review.bindings {
        shown.push('\n');
        shown.push_str(&show_binding(one, review));
    }
    if review.more {
        let told = "there are more bindings than fit into one answer: give --scope";
        shown.push_str(&format!("\n{}\n", paint(ODD, told)));
    }
    shown
}

fn show_binding(one: &BindingView, review: &Review) -> String {
    let bound = &one.bound;
    let mut shown = format!("{} on {}\n", paint(BOLD, &one_line(&bound.binding)), one_line(&bound.scope));
    shown.push_str(&labelled("for", &bound.identities));
    shown.push_str(&labelled("gives", &gives(bound)));
    shown.push_str(&labelled("from", &[standing(one, review.at)]));
    let asked = [format!("{}{}", one.requested, denied(&one.denied))];
    shown.push_str(&labelled("requested", &asked));
    shown.push_str(&labelled("used", &used(one)));
    if !one.never_used.is_empty() {
        shown.push_str(&labelled("never used", &one.never_used));
    }
    let young = one.applied_at.zip(review.since).filter(|(applied, since)| applied.0 > since.0);
    let (style, verdict) = verdict(one, young.map(|(applied, _)| applied));
    for (index, line) in verdict.iter().enumerate() {
        let told = labelled(if index == 0 { "proposed" } else { "" }, std::slice::from_ref(line));
        shown.push_str(&if index == 0 { paint(style, told.trim_end()) + "\n" } else { told });
    }
    shown
}

fn one_line(text: &str) -> String {
    printable(text).replace('\n', " ")
}

/// What it gives, in words.
fn gives(bound: &BoundView) -> Vec<String> {
    let mut given = Vec::new();
    if bound.may_use {
        given.push(format!("use, {}, via {}", starts(&bound.start), bound.via));
    }
    given.extend(bound.hands_on().map(|to| format!("delegate to {to}")));
    let values = Some(bound.values()).filter(|values| values != "-");
    given.into_iter().chain(values).collect()
}

fn starts(start: &str) -> &'static str {
    match start {
        "root" => "in root tasks too",
        _ => "only in a task that another task opened",
    }
}

/// Since when it stands, until when, why, and who answers for it.
fn standing(one: &BindingView, at: Option<At>) -> String {
    let bound = &one.bound;
    let mut told = vec![wire::or_dash(one.applied_at)];
    told.extend(bound.until.map(|until| match at.map(|at| at.0.until(until.0)) {
        Some(Ttl::ZERO) => format!("ended at {until}"),
        Some(left) if left < NEAR => format!("ends soon, at {until}"),
        _ => format!("until {until}"),
    }));
    told.extend(bound.ticket.as_ref().map(|ticket| format!("ticket {ticket}")));
    told.extend(bound.owner.as_ref().map(|owner| format!("owner {owner}")));
    told.join("; ")
}

fn denied(denied: &BTreeMap<String, u64>) -> String {
    let told: Vec<String> = denied.iter().map(|(reason, times)| format!("{times} {reason}")).collect();
    if told.is_empty() { String::new() } else { format!(", of which denied: {}", told.join(", ")) }
}

fn used(one: &BindingView) -> Vec<String> {
    let mut told = match one.last_used_at {
        None if one.declared > 0 => {
            vec![format!("never, but declared by {} tasks of direct callers", one.declared)]
        }
        None => vec!["never".to_owned()],
        Some(last) => vec![format!(
            "{} by its holders, {} handed on; {} in root tasks, {} below; last {last}",
            one.used, one.handed_on, one.in_root_tasks, one.under_parents
        )],
    };
    let by = |used: &UsedBy| format!("{} ×{}", used.spiffe_id, used.times);
    told.extend(one.used_by.iter().map(by));
    told.extend(one.handed_to.iter().map(|used| format!("handed to {}", by(used))));
    told.extend(one.values.iter().map(|used| format!("{}={} ×{}", used.parameter, used.value, used.times)));
    if one.more_used {
        told.push("…and more, which -o json does not tell either".to_owned());
    }
    told
}

fn verdict(one: &BindingView, applied: Option<At>) -> (anstyle::Style, Vec<String>) {
    let young = |told: &str| match applied {
        Some(applied) => format!("{told}; but it stands only since {applied}"),
        None => told.to_owned(),
    };
    match one.verdict {
        Verdict::Keep => (GOOD, vec!["nothing: all of it was used".to_owned()]),
        Verdict::Narrow => (ODD, [vec![young("narrower")], one.taken.clone()].concat()),
        Verdict::RemoveUnused => (BAD, vec![young("remove it: nobody used it")]),
        Verdict::RemoveEnded => (BAD, vec!["remove it: its end is past, and it gives nothing".to_owned()]),
        Verdict::Undeclare => {
            let told =
                "leave its scope out of the ceilings of direct callers, then remove it: nobody used it";
            (ODD, vec![told.to_owned()])
        }
        Verdict::Withheld => (FAINT, vec!["nothing: not all records were read".to_owned()]),
    }
}
