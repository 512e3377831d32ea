//! A key, and what its loss means, as people and programs read it.

use dayfly_client::v1;
use serde::Serialize;

use crate::output::{self, BOLD, paint, printable};
use crate::wire::{self, At, some};

/// The field names are stable.
#[derive(Clone, Debug, Serialize)]
pub struct KeyView {
    pub r#use: String,
    pub kid: String,
    pub algorithm: String,
    pub state: String,
    pub announced_at: Option<At>,
    pub since: Option<At>,
    pub until: Option<At>,
    pub place: Option<String>,
}

impl From<v1::Key> for KeyView {
    fn from(wire: v1::Key) -> Self {
        KeyView {
            r#use: wire.r#use,
            kid: wire.kid,
            algorithm: wire.algorithm,
            state: wire.state,
            announced_at: wire::at(wire.announced_at),
            since: wire::at(wire.since),
            until: wire::at(wire.until),
            place: some(wire.place),
        }
    }
}

impl KeyView {
    /// What its moments say, in words.
    fn moment(&self) -> String {
        match (self.state.as_str(), self.since, self.until) {
            ("announced", _, Some(until)) => format!("may sign from {until}"),
            ("retiring", _, Some(until)) => format!("published until {until}"),
            (_, Some(since), _) => format!("since {since}"),
            _ => "-".to_owned(),
        }
    }
}

/// Rows, by use, oldest first.
pub fn table(keys: &[KeyView]) -> String {
    let row = |key: &KeyView| {
        [
            key.r#use.clone(),
            key.kid.clone(),
            key.algorithm.clone(),
            key.state.clone(),
            key.moment(),
            key.place.clone().unwrap_or_else(|| "destroyed".to_owned()),
        ]
    };
    output::table(["USE", "KID", "ALG", "STATE", "WHEN", "PLACE"], keys.iter().map(row))
}

/// What one relying party must do. The field names are stable.
#[derive(Debug, Serialize)]
pub struct ConsequenceView {
    pub party: String,
    pub scopes: Vec<String>,
    pub todo: Option<String>,
}

impl From<v1::KeyConsequence> for ConsequenceView {
    fn from(wire: v1::KeyConsequence) -> Self {
        ConsequenceView { party: wire.party, scopes: wire.scopes, todo: some(wire.todo) }
    }
}

impl ConsequenceView {
    /// A few lines.
    pub fn text(&self) -> String {
        let scopes = match self.scopes.as_slice() {
            [] => String::new(),
            names => format!(" ({})", names.join(", ")),
        };
        let todo =
            self.todo.as_deref().unwrap_or("nothing: it asks the broker, which refuses what the key signed");
        format!("{}{}\n  {}\n", paint(BOLD, &printable(&self.party)), printable(&scopes), printable(todo))
    }
}
