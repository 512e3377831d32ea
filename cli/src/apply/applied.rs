//! What an apply did or would do, as people and programs read it.

use dayfly_client::v1::{self, document_change::Verb};
use serde::Serialize;

use super::Live;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{self, BAD, BOLD, FAINT, Format, GOOD, ODD, paint, printable};

/// What an apply did or would do, as programs read it; the field names are stable.
#[derive(Serialize)]
pub struct Applied {
    dry_run: bool,
    pub revision: u64,
    changes: Vec<Change>,
    pub faults: Vec<Fault>,
    uncovered_lease_ids: Vec<String>,
    #[serde(skip)]
    live: Live,
}

/// What happens to one document.
#[derive(Debug, Serialize)]
pub struct Change {
    kind: String,
    name: String,
    pub verb: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    diff: Option<String>,
}

/// What is wrong with a document.
#[derive(Debug, Serialize)]
pub struct Fault {
    document: u32,
    subject: String,
    path: String,
    problem: String,
}

impl Applied {
    /// Reads the broker's answer.
    pub fn read(answer: v1::ApplyResponse, dry_run: bool, live: Live) -> Self {
        Applied {
            dry_run,
            revision: answer.revision,
            changes: answer.changes.into_iter().map(|wire| Change::read(wire, true)).collect(),
            faults: answer.faults.into_iter().map(Fault::from).collect(),
            uncovered_lease_ids: answer.uncovered_lease_ids,
            live,
        }
    }

    /// What the shell is told.
    pub fn exit(&self) -> Exit {
        if self.faults.is_empty() { Exit::Done } else { Exit::Failed }
    }

    /// Whether every document stands as it is.
    pub fn changes_nothing(&self) -> bool {
        self.changes.iter().all(|change| change.verb == "unchanged")
    }

    /// Whether a document goes, or a lease.
    pub fn takes_away(&self) -> bool {
        let deletes = self.changes.iter().any(|change| change.verb == "delete");
        deletes || (self.live == Live::Revoke && !self.uncovered_lease_ids.is_empty())
    }

    /// Prints it whole.
    pub fn print(&self, format: Format) -> Result<(), Failure> {
        match format {
            Format::Json => output::json(self)?,
            Format::Table | Format::Yaml => output::text(&self.told())?,
        }
        Ok(())
    }

    fn told(&self) -> String {
        let faults: String = self.faults.iter().map(Fault::told).collect();
        if !faults.is_empty() {
            let count = self.faults.len();
            let summary =
                format!("{count} {}; nothing was applied", if count == 1 { "fault" } else { "faults" });
            return format!("{faults}{}\n", paint(BAD, &summary));
        }
        let changes: String = self.changes.iter().map(Change::told).collect();
        format!("{changes}{}", self.summary())
    }

    /// What becomes of leases, the counts and the revision.
    pub fn summary(&self) -> String {
        let count = |verb| self.changes.iter().filter(|change| change.verb == verb).count();
        let named =
            [("create", "created"), ("update", "updated"), ("delete", "deleted"), ("unchanged", "unchanged")];
        let counts =
            named.map(|(verb, done)| (count(verb), if self.dry_run && verb != done { verb } else { done }));
        let counts: Vec<String> = counts
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, word)| format!("{count} {word}"))
            .collect();
        let counts = if counts.is_empty() { "nothing to change".to_owned() } else { counts.join(", ") };
        let revision = self.revision;
        let stands = if self.dry_run {
            format!("dry run, revision {revision} stands")
        } else {
            format!("revision {revision}")
        };
        format!("{}{counts}; {stands}\n", self.uncovered())
    }

    fn uncovered(&self) -> String {
        if self.uncovered_lease_ids.is_empty() {
            return String::new();
        }
        let fate = match (self.live, self.dry_run) {
            (Live::Drain, _) => "are not renewed and run to the end of their task",
            (Live::Revoke, true) => "would be revoked at once",
            (Live::Revoke, false) => "are being revoked",
        };
        let count = self.uncovered_lease_ids.len();
        let ids: String =
            self.uncovered_lease_ids.iter().map(|id| format!("  {}\n", printable(id))).collect();
        format!(
            "{}\n{ids}",
            paint(ODD, &format!("live leases that no binding carries any more ({count}) {fate}:"))
        )
    }
}

impl Change {
    /// Reads the broker's word; with its diff where one was asked for.
    pub fn read(wire: v1::DocumentChange, with_diff: bool) -> Self {
        let verb = match wire.verb() {
            Verb::Create => "create",
            Verb::Update => "update",
            Verb::Delete => "delete",
            Verb::Unchanged => "unchanged",
            Verb::Unspecified => "unknown",
        };
        Change { kind: wire.kind, name: wire.name, verb, diff: with_diff.then_some(wire.diff) }
    }

    /// `~ Binding/train-data update`, and its diff below.
    pub fn told(&self) -> String {
        let (style, sign) = match self.verb {
            "create" => (GOOD, '+'),
            "update" => (ODD, '~'),
            "delete" => (BAD, '-'),
            _ => (FAINT, '='),
        };
        let head = paint(
            style,
            &format!("{sign} {}/{} {}", printable(&self.kind), printable(&self.name), self.verb),
        );
        let lines = self.diff.as_deref().unwrap_or_default().lines();
        let diff: String = lines.map(|line| format!("    {}\n", diff_line(line))).collect();
        format!("{head}\n{diff}")
    }
}

fn diff_line(line: &str) -> String {
    let line = printable(line);
    match line.as_bytes().first() {
        Some(b'+') => paint(GOOD, &line),
        Some(b'-') => paint(BAD, &line),
        Some(b'@') => paint(FAINT, &line),
        _ => line,
    }
}

impl From<v1::DocumentFault> for Fault {
    fn from(wire: v1::DocumentFault) -> Self {
        let v1::DocumentFault { document, subject, path, problem } = wire;
        Fault { document, subject, path, problem }
    }
}

impl Fault {
    /// Where it stands and what it is, in one line.
    pub fn told(&self) -> String {
        let place =
            if self.document == 0 { "as stored".to_owned() } else { format!("document {}", self.document) };
        let parts = [place, printable(&self.subject), printable(&self.path)];
        let parts: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        format!("{}: {}\n", paint(BOLD, &parts.join(" ")), printable(&self.problem))
    }
}
