//! What a simulation found, as people and programs read it.

use std::collections::BTreeMap;

use dayfly_client::v1;
use dayfly_domain::time::Ttl;
use serde::Serialize;

use crate::apply::{Change, Fault};
use crate::exit::Exit;
use crate::output::{self, BAD, FAINT, GOOD, ODD, paint, printable};
use crate::wire::{self, At, some};

/// What a simulation found; the field names are stable.
#[derive(Debug, Default, Serialize)]
pub struct Simulated {
    revision: u64,
    changes: Vec<Change>,
    faults: Vec<Fault>,
    groups: Vec<GroupView>,
    #[serde(flatten)]
    summary: Option<SummaryView>,
}

#[derive(Debug, Serialize)]
struct GroupView {
    change: &'static str,
    spiffe_id: String,
    what: String,
    subject: Option<String>,
    before: String,
    after: String,
    ttl_before_seconds: Option<u64>,
    ttl_after_seconds: Option<u64>,
    message: Option<String>,
    requests: u64,
    first_at: Option<At>,
    last_at: Option<At>,
    example_request_id: String,
    #[serde(skip)]
    ttl: (Option<Ttl>, Option<Ttl>),
}

#[derive(Debug, Serialize)]
struct SummaryView {
    since: Option<At>,
    until: Option<At>,
    records: u64,
    more: bool,
    replayed: u64,
    unchanged: u64,
    totals: BTreeMap<&'static str, TotalView>,
    not_replayed: Vec<LostView>,
}

#[derive(Debug, Serialize)]
struct TotalView {
    requests: u64,
    without_group: u64,
}

#[derive(Debug, Serialize)]
struct LostView {
    reason: String,
    meaning: String,
    requests: u64,
}

impl Simulated {
    /// Takes in what was proposed.
    pub fn propose(&mut self, proposal: v1::SimulatedProposal) {
        self.revision = proposal.revision;
        self.changes = proposal.changes.into_iter().map(|wire| Change::read(wire, false)).collect();
        self.faults = proposal.faults.into_iter().map(Fault::from).collect();
    }

    /// Takes in one group.
    pub fn add(&mut self, wire: v1::SimulatedGroup) {
        let ttl = (wire::span(wire.ttl_before), wire::span(wire.ttl_after));
        self.groups.push(GroupView {
            change: name(wire.change()),
            spiffe_id: wire.spiffe_id,
            what: wire.what,
            subject: some(wire.subject),
            before: wire.before,
            after: wire.after,
            ttl_before_seconds: ttl.0.map(Ttl::as_seconds),
            ttl_after_seconds: ttl.1.map(Ttl::as_seconds),
            message: some(wire.message),
            requests: wire.requests,
            first_at: wire::at(wire.first_at),
            last_at: wire::at(wire.last_at),
            example_request_id: wire.example_request_id,
            ttl,
        });
    }

    /// Takes in what stands at the end.
    pub fn finish(&mut self, wire: v1::SimulationSummary) {
        let read = wire.read.unwrap_or_default();
        let total = |one: &v1::SimulatedTotal| {
            let total = TotalView { requests: one.requests, without_group: one.without_group };
            (name(one.change()), total)
        };
        let lost = |lost: v1::RequestsNotReplayed| {
            let v1::RequestsNotReplayed { reason, meaning, requests } = lost;
            LostView { reason, meaning, requests }
        };
        self.summary = Some(SummaryView {
            since: wire::at(wire.since),
            until: wire::at(read.at),
            records: read.records,
            more: wire.more,
            replayed: wire.replayed,
            unchanged: wire.unchanged,
            totals: wire.totals.iter().map(total).collect(),
            not_replayed: wire.not_replayed.into_iter().map(lost).collect(),
        });
    }

    /// Whether all of it came.
    pub fn is_whole(&self) -> bool {
        self.summary.is_some() || !self.faults.is_empty()
    }

    /// What the shell is told.
    pub fn exit(&self) -> Exit {
        match &self.summary {
            None => Exit::Failed,
            Some(summary) if summary.requests("newly_denied") > 0 => Exit::NewlyDenied,
            Some(_) => Exit::Done,
        }
    }

    /// For people.
    pub fn told(&self) -> String {
        let Some(summary) = &self.summary else {
            let faults: String = self.faults.iter().map(Fault::told).collect();
            let count = self.faults.len();
            let noun = if count == 1 { "fault" } else { "faults" };
            return format!("{faults}{}\n", paint(BAD, &format!("{count} {noun}; nothing was replayed")));
        };
        let changes = self.changes.iter().filter(|change| change.verb != "unchanged");
        let mut shown: String = changes.map(Change::told).collect();
        if shown.is_empty() {
            shown.push_str("no document would change\n");
        }
        if !self.groups.is_empty() {
            let headings = [
                "CHANGE",
                "REQUESTS",
                "SPIFFE ID",
                "ASKED FOR",
                "STANDS",
                "PROPOSED",
                "LAST",
                "FIRST REQUEST",
            ];
            shown.push('\n');
            shown.push_str(&output::table(headings, self.groups.iter().map(GroupView::row)));
            shown.push_str(&self.messages());
        }
        shown.push('\n');
        shown.push_str(&summary.told());
        shown
    }

    /// What those would be told that would newly be denied.
    fn messages(&self) -> String {
        let denied = self.groups.iter().filter(|group| group.change == "newly_denied");
        let told = denied.filter_map(|group| Some((&group.example_request_id, group.message.as_ref()?)));
        let lines: String = told
            .map(|(id, message)| format!("  {}  {}\n", printable(id), printable(message).replace('\n', " ")))
            .collect();
        if lines.is_empty() { lines } else { format!("\nwould be told\n{lines}") }
    }
}

impl GroupView {
    fn row(&self) -> [String; 8] {
        let of = |code: &str, ttl: Option<Ttl>| match ttl {
            Some(ttl) => format!("{code} for {ttl}"),
            None => code.to_owned(),
        };
        let asked_for = match (self.what.as_str(), self.subject.as_deref()) {
            ("credential" | "action", Some(subject)) => subject.to_owned(),
            ("delegate_task", Some(to)) => format!("a task for {to}"),
            ("open_task", _) => "a task".to_owned(),
            ("claim_task", _) => "a task offered to it".to_owned(),
            (what, subject) => format!("{what} {}", subject.unwrap_or_default()),
        };
        [
            self.change.replace('_', " "),
            self.requests.to_string(),
            self.spiffe_id.clone(),
            asked_for,
            of(&self.before, self.ttl.0),
            of(&self.after, self.ttl.1),
            wire::or_dash(self.last_at),
            self.example_request_id.clone(),
        ]
    }
}

impl SummaryView {
    fn requests(&self, change: &str) -> u64 {
        self.totals.get(change).map_or(0, |total| total.requests)
    }

    fn told(&self) -> String {
        let mut lines = vec![format!(
            "{} replayed of {} since {}, {} unchanged",
            counted(self.replayed, "request"),
            counted(self.records, "record"),
            wire::or_dash(self.since),
            self.unchanged
        )];
        let mut left_out = 0;
        for change in CHANGES.map(name) {
            let (count, said) = (self.requests(change), change.replace('_', " "));
            left_out += self.totals.get(change).map_or(0, |total| total.without_group);
            let style = match change {
                "newly_denied" => BAD,
                "newly_allowed" | "widened" | "altered" => ODD,
                _ => FAINT,
            };
            if count > 0 || change == "newly_denied" {
                let style = if count == 0 { GOOD } else { style };
                lines.push(paint(style, &format!("{count} {said}")));
            }
        }
        if left_out > 0 {
            lines.push(paint(ODD, &format!("{left_out} of them are of groups for which there was no room")));
        }
        for lost in &self.not_replayed {
            lines
                .push(paint(FAINT, &printable(&format!("{} not replayed: {}", lost.requests, lost.meaning))));
        }
        if self.more {
            let until = wire::or_dash(self.until);
            lines.push(paint(
                ODD,
                &format!("there are more records: these end at {until}; give a later --since"),
            ));
        }
        lines.iter().map(|line| format!("{line}\n")).collect()
    }
}

const CHANGES: [v1::SimulatedChange; 6] = [
    v1::SimulatedChange::NewlyDenied,
    v1::SimulatedChange::NewlyAllowed,
    v1::SimulatedChange::Widened,
    v1::SimulatedChange::Altered,
    v1::SimulatedChange::Narrowed,
    v1::SimulatedChange::DeniedOtherwise,
];

fn name(change: v1::SimulatedChange) -> &'static str {
    match change {
        v1::SimulatedChange::NewlyDenied => "newly_denied",
        v1::SimulatedChange::NewlyAllowed => "newly_allowed",
        v1::SimulatedChange::Widened => "widened",
        v1::SimulatedChange::Altered => "altered",
        v1::SimulatedChange::Narrowed => "narrowed",
        v1::SimulatedChange::DeniedOtherwise => "denied_otherwise",
        v1::SimulatedChange::Unspecified => "unknown",
    }
}

fn counted(count: u64, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}
