//! What is wrong with a policy, with the line of source it stands on.

use std::fmt;

/// One fault of one policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyFault {
    /// The policy, by name.
    pub policy: String,
    /// The module's file name; empty if it concerns the policy as a whole.
    pub file: String,
    /// Line and column, from 1, where they are known.
    pub place: Option<(u32, u32)>,
    /// What is wrong, and what would be right.
    pub problem: String,
    /// The line of source with a caret under the column, where they are known.
    pub excerpt: String,
}

impl PolicyFault {
    /// Where it stands in the policy's document.
    pub fn path(&self) -> String {
        match self.file.as_str() {
            "" => "spec.modules".to_owned(),
            file => format!("spec.modules.{file}"),
        }
    }
}

/// `training.rego:3:5: …`, then the marked line.
impl fmt::Display for PolicyFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.file.as_str(), self.place) {
            ("", _) => {}
            (file, None) => write!(f, "{file}: ")?,
            (file, Some((line, column))) => write!(f, "{file}:{line}:{column}: ")?,
        }
        f.write_str(&self.problem)?;
        if !self.excerpt.is_empty() {
            write!(f, "\n{}", self.excerpt)?;
        }
        Ok(())
    }
}

/// The line of a source with a caret under the column; of a long line what stands around it. Tabs stay tabs, so that
/// the caret stands where it should.
pub(crate) fn excerpt(source: &str, line: u32, column: u32) -> String {
    const WIDEST: usize = 120;
    let Some(text) = (line as usize).checked_sub(1).and_then(|index| source.lines().nth(index)) else {
        return String::new();
    };
    let column = (column as usize).saturating_sub(1);
    let skipped = if column < WIDEST { 0 } else { column - WIDEST / 2 };
    let shown: String = text.chars().skip(skipped).take(WIDEST).collect();
    let before = shown.chars().take(column - skipped);
    let indent: String = before.map(|letter| if letter == '\t' { '\t' } else { ' ' }).collect();
    let number = line.to_string();
    format!("{number} | {shown}\n{:width$} | {indent}^", "", width = number.len())
}

/// What the engine said: place and message out of its text, which quotes the source in a layout of its own.
pub(crate) fn engine_error(text: &str) -> (Option<(String, u32, u32)>, String) {
    let place = text.lines().find_map(|line| {
        let mut parts = line.trim().strip_prefix("--> ")?.rsplitn(3, ':');
        let column = parts.next()?.trim().parse().ok()?;
        let line = parts.next()?.parse().ok()?;
        Some((parts.next()?.to_owned(), line, column))
    });
    let message = text.lines().find_map(|line| line.trim().strip_prefix("error: "));
    (place, message.unwrap_or(text.trim()).to_owned())
}

/// Text of an engine as it may stand in a record: one line, bounded.
pub(crate) fn one_line(text: &str, most: usize) -> String {
    let mut line: String =
        text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect();
    if line.len() > most {
        let end = (0..=most).rev().find(|end| line.is_char_boundary(*end)).unwrap_or(0);
        line.truncate(end);
        line.push('…');
    }
    line
}
