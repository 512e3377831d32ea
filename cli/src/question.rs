//! What answers to questions have in common: verdicts, steps, last moments, and what a binding gives.

use std::collections::BTreeMap;

use dayfly_client::v1;
use dayfly_domain::time::Ttl;
use serde::Serialize;
use serde_json::Value;

use crate::output::{self, BAD, FAINT, GOOD, ODD, paint, printable};
use crate::wire::{self, At, Promise, some};

/// Allow or deny, as programs read it; the field names are stable.
#[derive(Debug, Serialize)]
pub struct VerdictView {
    pub allowed: bool,
    pub binding: Option<String>,
    pub ttl_seconds: Option<u64>,
    pub approval_id: Option<String>,
    pub narrowing: Option<Value>,
    pub reason: Option<String>,
    pub message: Option<String>,
    pub next: Option<String>,
    #[serde(skip)]
    ttl: Option<Ttl>,
}

impl From<v1::Verdict> for VerdictView {
    fn from(wire: v1::Verdict) -> Self {
        let ttl = wire::span(wire.ttl);
        VerdictView {
            allowed: wire.allowed,
            binding: some(wire.binding),
            ttl_seconds: ttl.map(Ttl::as_seconds),
            approval_id: some(wire.approval_id),
            narrowing: some(wire.narrowing).and_then(|text| serde_json::from_str(&text).ok()),
            reason: some(wire.reason),
            message: some(wire.message),
            next: some(wire.next),
            ttl,
        }
    }
}

impl VerdictView {
    /// `allow by binding train-data for 5m`, `DENY SCOPE_NOT_GRANTED`.
    pub fn told(&self) -> String {
        if !self.allowed {
            return format!("DENY {}", self.reason.as_deref().unwrap_or("without a reason"));
        }
        // That a task may be opened or claimed hangs on no one binding.
        let by = self.binding.as_ref().map(|binding| format!(" by binding {binding}")).unwrap_or_default();
        let ttl = self.ttl.map(|ttl| format!(" for {ttl}")).unwrap_or_default();
        let approval = self.approval_id.as_ref().map(|id| format!(", on approval {id}")).unwrap_or_default();
        let narrowed = self
            .narrowing
            .as_ref()
            .map(|taken| format!(", narrowed by policies: {taken}"))
            .unwrap_or_default();
        format!("allow{by}{ttl}{approval}{narrowed}")
    }

    /// The same in its colour.
    pub fn painted(&self) -> String {
        paint(if self.allowed { GOOD } else { BAD }, &printable(&self.told()))
    }
}

/// One step of a decision.
#[derive(Debug, Serialize)]
pub struct StepView {
    pub rule: String,
    pub matched: bool,
    pub what: String,
}

impl StepView {
    /// `+ caller: holds`.
    pub fn told(&self) -> String {
        let (sign, style) = if self.matched { ("+", GOOD) } else { ("-", ODD) };
        let text = output::printable(&format!("{}: {}", self.rule, self.what)).replace('\n', " ");
        format!("  {} {text}\n", paint(style, sign))
    }
}

/// The last moments of what is out.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct HorizonView {
    pub at_the_latest: Option<At>,
    pub if_ended_now: Option<At>,
}

impl From<Option<v1::Horizon>> for HorizonView {
    fn from(wire: Option<v1::Horizon>) -> Self {
        let wire = wire.unwrap_or_default();
        HorizonView { at_the_latest: wire::at(wire.at_the_latest), if_ended_now: wire::at(wire.if_ended_now) }
    }
}

impl HorizonView {
    /// One line for all of it.
    pub fn told(&self) -> String {
        match (self.at_the_latest, self.if_ended_now) {
            (None, None) => "nothing is out\n".to_owned(),
            (Some(latest), None) => format!("nothing is out; what it may still get ends by {latest}\n"),
            (None, Some(ended)) => format!("over by {ended}\n"),
            (Some(latest), Some(ended)) => {
                format!("over by {latest} at the latest; by {ended} if it is ended now\n")
            }
        }
    }
}

/// What a binding gives an identity.
#[derive(Debug, Serialize)]
pub struct BoundView {
    pub scope: String,
    pub binding: String,
    pub identities: Vec<String>,
    pub may_use: bool,
    pub delegate_to: Vec<String>,
    pub delegate_depth: u32,
    pub parameters: BTreeMap<String, AllowedView>,
    pub start: String,
    pub via: String,
    pub max_task_seconds: Option<u64>,
    pub until: Option<At>,
    pub ticket: Option<String>,
    pub owner: Option<String>,
    pub max_ttl_seconds: Option<u64>,
    pub approval: bool,
    pub policies: Vec<String>,
    pub promise: Option<Promise>,
    pub decided: Vec<DecidedView>,
    pub complete: bool,
}

/// What a parameter may be: a list, or in words.
#[derive(Debug, Serialize)]
pub struct AllowedView {
    pub one_of: Option<Vec<String>>,
    pub constraint: Option<String>,
}

/// What was decided of some values.
#[derive(Debug, Serialize)]
pub struct DecidedView {
    pub parameters: BTreeMap<String, String>,
    pub act: Option<String>,
    pub standing: &'static str,
    pub why: Option<String>,
    pub ttl_seconds: Option<u64>,
    pub parents: Vec<ParentView>,
}

/// Whose task must stand above.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct ParentView {
    pub binding: String,
    pub identities: Vec<String>,
    pub in_task_of: Vec<String>,
}

impl From<v1::BoundScope> for BoundView {
    fn from(wire: v1::BoundScope) -> Self {
        let seconds = |span| wire::span(span).map(Ttl::as_seconds);
        let allowed = |one: v1::AllowedParameter| {
            let listed = one.constraint.is_empty();
            (one.name, AllowedView { one_of: listed.then_some(one.one_of), constraint: some(one.constraint) })
        };
        BoundView {
            scope: wire.scope,
            binding: wire.binding,
            identities: wire.identities,
            may_use: wire.may_use,
            delegate_to: wire.delegate_to,
            delegate_depth: wire.delegate_depth,
            parameters: wire.parameters.into_iter().map(allowed).collect(),
            start: wire.start,
            via: wire.via,
            max_task_seconds: seconds(wire.max_task),
            until: wire::at(wire.until),
            ticket: some(wire.ticket),
            owner: some(wire.owner),
            max_ttl_seconds: seconds(wire.max_ttl),
            approval: wire.approval,
            policies: wire.policies,
            promise: wire.promise.map(Promise::from),
            decided: wire.decided.into_iter().map(DecidedView::from).collect(),
            complete: wire.complete,
        }
    }
}

impl From<v1::DecidedScope> for DecidedView {
    fn from(wire: v1::DecidedScope) -> Self {
        use v1::decided_scope::Standing;
        let standing = match wire.standing() {
            Standing::Allowed => "allowed",
            Standing::ApprovalMissing => "approval_missing",
            Standing::PolicyDenied => "policy_denied",
            Standing::Nowhere => "nowhere",
            Standing::NoExample => "no_example",
            Standing::Unspecified => "unknown",
        };
        let parent = |parent: v1::ParentNeeded| ParentView {
            binding: parent.binding,
            identities: parent.identities,
            in_task_of: parent.in_task_of,
        };
        DecidedView {
            parameters: wire.scope.map(|scope| wire::sorted(scope.parameters)).unwrap_or_default(),
            act: some(wire.act),
            standing,
            why: some(wire.why),
            ttl_seconds: wire::span(wire.ttl).map(Ttl::as_seconds),
            parents: wire.parents.into_iter().map(parent).collect(),
        }
    }
}

/// What a binding gives for use: for which values, and where.
#[derive(Debug, PartialEq, Eq)]
pub struct Given {
    pub values: String,
    pub place: Vec<String>,
}

impl BoundView {
    /// What it gives for use, values with the same answer together.
    pub fn given(&self) -> Vec<Given> {
        if !self.may_use {
            return Vec::new();
        }
        let mut alike: Vec<(Vec<String>, Vec<&DecidedView>)> = Vec::new();
        for one in &self.decided {
            let place = one.place();
            match alike.iter_mut().find(|(other, _)| *other == place) {
                Some((_, group)) => group.push(one),
                None => alike.push((place, vec![one])),
            }
        }
        match &alike[..] {
            [] => {
                let place = vec!["never: no values fit both binding and scope".to_owned()];
                vec![Given { values: self.values(), place }]
            }
            [(place, _)] => vec![Given { values: self.values(), place: place.clone() }],
            several => {
                let told = |group: &[&DecidedView]| {
                    group.iter().map(|one| one.told()).collect::<Vec<_>>().join("; ")
                };
                several
                    .iter()
                    .map(|(place, group)| Given { values: told(group), place: place.clone() })
                    .collect()
            }
        }
    }

    /// `dataset=corpus-7|corpus-8, shard=a whole number from 0 to 7`.
    pub fn values(&self) -> String {
        let told = |(name, allowed): (&String, &AllowedView)| match (&allowed.one_of, &allowed.constraint) {
            (_, Some(words)) => format!("{name}: {words}"),
            (Some(values), None) => format!("{name}={}", values.join("|")),
            (None, None) => format!("{name}=?"),
        };
        let told: Vec<String> = self.parameters.iter().map(told).collect();
        if told.is_empty() { "-".to_owned() } else { told.join(", ") }
    }

    /// The binding, and what limits it: the way, its end, approvals, policies.
    pub fn by(&self) -> String {
        let mut told = vec![self.binding.clone()];
        // Admins always come straight to the broker.
        told.extend((!self.is_of_admins()).then(|| format!("via {}", self.via)));
        told.extend(self.until.map(|until| format!("until {until}")));
        told.extend(self.ticket.as_ref().map(|ticket| format!("ticket {ticket}")));
        told.extend(self.owner.as_ref().map(|owner| format!("owner {owner}")));
        told.extend(self.approval.then(|| "each use approved by a second admin".to_owned()));
        if !self.policies.is_empty() {
            told.push(format!("judged by {}", self.policies.join(", ")));
        }
        told.join("; ")
    }

    /// Whether it is for a verb of administration.
    pub fn is_of_admins(&self) -> bool {
        self.scope.starts_with("admin.")
    }

    /// Whom it may be handed to; nothing if it may not.
    pub fn hands_on(&self) -> Option<String> {
        let to = (!self.delegate_to.is_empty()).then(|| self.delegate_to.join(", "))?;
        Some(match self.delegate_depth {
            1 => to,
            depth => format!("{to}, {depth} tasks deep"),
        })
    }
}

impl DecidedView {
    /// `dataset=corpus-7 to load-model of models/llama`.
    fn told(&self) -> String {
        let values: Vec<String> =
            self.parameters.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let act = self.act.as_ref().map(|act| format!("to {act}"));
        let all: Vec<String> =
            (!values.is_empty()).then(|| values.join(", ")).into_iter().chain(act).collect();
        all.join(" ")
    }

    /// Where it is had, or why nowhere: a line for each place.
    fn place(&self) -> Vec<String> {
        let why = self.why.as_deref().unwrap_or_default();
        let condition = match self.standing {
            "allowed" => String::new(),
            "approval_missing" => ", once approved".to_owned(),
            "policy_denied" => format!("; policies may deny: {why}"),
            "nowhere" => return vec![format!("never: {why}")],
            "no_example" => return vec!["for values of which no example was found".to_owned()],
            other => return vec![other.to_owned()],
        };
        match &self.parents[..] {
            [] => vec![format!("in a root task{condition}")],
            parents => {
                parents.iter().map(|parent| format!("only under {}{condition}", parent.told())).collect()
            }
        }
    }
}

impl ParentView {
    fn told(&self) -> String {
        let within = match &self.in_task_of[..] {
            [] => String::new(),
            others => format!(", in a task of {}", others.join(" or ")),
        };
        format!("{} (binding {}){within}", self.identities.join(" or "), self.binding)
    }
}

/// `label  first line`, further lines below it.
pub fn labelled(label: &str, lines: &[String]) -> String {
    let shown = lines.iter().enumerate().map(|(index, line)| {
        let label = if index == 0 { label } else { "" };
        format!("    {label:<10}  {}\n", printable(line).replace('\n', " "))
    });
    shown.collect()
}

/// A faint line.
pub fn aside(text: &str) -> String {
    format!("{}\n", paint(FAINT, text))
}
