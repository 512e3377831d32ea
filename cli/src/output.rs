//! The only place that writes to the terminal: text with colours where they are wanted, JSON, tables, errors.
//!
//! A reader that went away (`dayfly … | head`) is no error: the rest is dropped and the exit code stays what it was.

use std::io::{self, ErrorKind, IsTerminal, Write};

use anstyle::{AnsiColor, Style};
use clap::ValueEnum;
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use crate::failure::Failure;

/// How to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// For programs: stable field names, times as RFC 3339. Errors are JSON too, on stderr.
    Json,
    /// Documents as they can be applied again.
    Yaml,
}

impl Format {
    /// Refuses YAML where what is printed is no document.
    pub fn not_yaml(self) -> Result<Self, Failure> {
        match self {
            Format::Table | Format::Json => Ok(self),
            Format::Yaml => {
                Err(Failure::usage("only documents are printed as YAML; use -o table or -o json"))
            }
        }
    }
}

/// Something that went well.
pub const GOOD: Style = AnsiColor::Green.on_default();
/// Something to look at.
pub const ODD: Style = AnsiColor::Yellow.on_default();
/// Something that failed, or goes.
pub const BAD: Style = AnsiColor::Red.on_default();
/// Something beside the point.
pub const FAINT: Style = Style::new().dimmed();
/// A heading.
pub const BOLD: Style = Style::new().bold();

/// Colours a text.
pub fn paint(style: Style, text: &str) -> String {
    format!("{style}{text}{style:#}")
}

/// Prints text as it stands; colours vanish where they are not wanted (no terminal, `NO_COLOR`).
pub fn text(text: &str) -> io::Result<()> {
    unless_gone(anstream::stdout().lock().write_all(text.as_bytes())).map(drop)
}

/// Prints bytes unchanged. Says whether somebody still reads.
pub fn raw(bytes: &[u8]) -> io::Result<bool> {
    unless_gone(io::stdout().lock().write_all(bytes))
}

/// Prints one value as indented JSON.
pub fn json(value: &impl Serialize) -> io::Result<()> {
    let mut bytes = serde_json::to_vec_pretty(value)?;
    bytes.push(b'\n');
    raw(&bytes).map(drop)
}

/// Prints one value as one line of JSON. Says whether somebody still reads.
pub fn json_line(value: &impl Serialize) -> io::Result<bool> {
    let mut bytes = serde_json::to_vec(value)?;
    bytes.push(b'\n');
    raw(&bytes)
}

/// Says something beside the output.
pub fn note(text: &str) {
    // Nobody is left to be told that nobody can be told.
    let _ = writeln!(anstream::stderr().lock(), "{text}");
}

/// Says how far something has come, in place of what was said before; an empty text wipes it away. Only for a terminal:
/// ask [`shows_progress`].
pub fn progress(text: &str) {
    let mut stderr = anstream::stderr().lock();
    // ECMA-48 §8.3.41: erase to the end of the line. What cannot be shown is not missed.
    let _ = write!(stderr, "\r{}\u{1b}[K", printable(text));
    let _ = stderr.flush();
}

/// Whether somebody sees progress: people who read the output on a terminal.
pub fn shows_progress(format: Format) -> bool {
    format == Format::Table && io::stderr().is_terminal()
}

/// Asks something on the terminal without ending the line.
pub fn ask(question: &str) -> io::Result<()> {
    let mut stderr = anstream::stderr().lock();
    write!(stderr, "{question}")?;
    stderr.flush()
}

/// Says why the command failed.
pub fn failure(failure: &Failure, format: Format) {
    let said = match format {
        Format::Json => failure_as_json(failure),
        Format::Table | Format::Yaml => failure_as_text(failure),
    };
    note(said.trim_end());
}

fn failure_as_json(failure: &Failure) -> String {
    #[derive(Serialize)]
    struct Whole<'a> {
        error: &'a crate::failure::Told,
        exit_code: u8,
    }
    let whole = Whole { error: &failure.told, exit_code: failure.exit.code() };
    serde_json::to_string(&whole).expect("texts and numbers are plain data")
}

fn failure_as_text(failure: &Failure) -> String {
    let told = &failure.told;
    let mut lines = vec![format!("{} {}", paint(BAD.bold(), "error:"), told.message)];
    lines.extend(told.causes.iter().map(|cause| format!("  because {cause}")));
    if let Some(next) = &told.next {
        lines.push(format!("{} {next}", paint(BOLD, "next:")));
    }
    let ids = [("reason", &told.reason), ("request", &told.request_id)];
    let ids: Vec<String> =
        ids.iter().filter_map(|(name, id)| id.as_ref().map(|id| format!("{name}: {id}"))).collect();
    if !ids.is_empty() {
        lines.push(paint(FAINT, &ids.join("  ")));
    }
    lines.join("\n")
}

/// Rows under headings, two spaces apart; nothing is wrapped or cut, so that ids can be copied.
pub fn table<const N: usize>(headings: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(headings);
    for row in rows {
        table.add_row(row.map(|cell| one_line(&cell)));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// `name  value` lines; empty values are left out.
pub fn facts<const N: usize>(facts: [(&str, String); N]) -> String {
    let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    let shown = facts.iter().filter(|(_, value)| !value.is_empty());
    shown.map(|(name, value)| format!("{name:<width$}  {}\n", one_line(value))).collect()
}

/// What a workload claimed may hold escape sequences; on a terminal they would act.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && !matches!(c, '\n' | '\t') { '\u{fffd}' } else { c }).collect()
}

fn one_line(text: &str) -> String {
    printable(text).replace(['\n', '\t'], " ")
}

fn unless_gone(written: io::Result<()>) -> io::Result<bool> {
    match written {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_keeps_long_cells_whole_and_disarms_escapes() {
        let shown =
            table(["NAME", "WHAT"], [["a".repeat(200), "x\u{1b}[2J".into()], ["b".into(), String::new()]]);
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(lines[0], format!("NAME{}WHAT", " ".repeat(198)));
        assert_eq!(lines[1], format!("{}  x\u{fffd}[2J", "a".repeat(200)));
        assert_eq!(lines[2], "b");
    }

    #[test]
    fn a_failure_shows_what_why_next_and_ids() {
        let mut failure =
            Failure::new("cannot open a task").because(&io::Error::other("nobody there")).next("look");
        failure.told.reason = Some("NOT_COVERED".into());
        failure.told.request_id = Some("01J".into());
        let text = anstream::adapter::strip_str(&failure_as_text(&failure)).to_string();
        assert_eq!(
            text,
            "error: cannot open a task\n  because nobody there\nnext: look\nreason: NOT_COVERED  request: 01J"
        );
        assert_eq!(
            failure_as_json(&failure),
            r#"{"error":{"message":"cannot open a task","causes":["nobody there"],"next":"look","reason":"NOT_COVERED","request_id":"01J"},"exit_code":1}"#
        );
    }
}
