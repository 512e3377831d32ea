//! The deny document, in the fewest characters.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::slot::{Block, Slot};
use super::state::Session;
use crate::time::Timestamp;

/// All inline policies of a role together (IAM User Guide, "IAM and AWS STS quotas": 10,240; "IAM doesn't count white
/// space").
pub const MOST_CHARACTERS: usize = 10_240;

/// Session tag with the slot.
pub const SLOT_TAG: &str = "dayfly-slot";

/// No document without entries is longer.
pub(super) const FIXED_CHARACTERS: usize = 480;

/// The deny document of a role at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DenyDocument {
    listed: BTreeSet<Entry>,
    watermark: Option<i64>,
    spared: BTreeSet<Slot>,
}

/// What one pattern of the document stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Entry {
    Slot(Slot),
    Block(Block),
}

/// Revoked sessions that one entry can stand for.
#[derive(Clone, Copy)]
struct Item {
    entry: Entry,
    /// The latest that any of them can have been issued at.
    latest: i64,
}

impl DenyDocument {
    /// A session is denied if it is listed, or was issued before the watermark and is not spared. The watermark is chosen
    /// so that both lists together are shortest; none is as good as any. It never lies behind `settled`: a session that is
    /// not known yet is issued after that.
    pub(super) fn of(sessions: &[Session], settled: i64) -> Self {
        let mut items = items(sessions);
        items.sort_by_key(|item| item.latest);
        let mut living: Vec<&Session> = sessions.iter().filter(|session| !session.revoked).collect();
        living.sort_by_key(|session| session.earliest);
        // What stands between no watermark and each that is worth a look: behind the latest of an item.
        let (mut fewest, mut watermark) = (items.len(), None);
        let mut spared = 0;
        for (index, item) in items.iter().enumerate() {
            let after = item.latest + 1;
            if after > settled {
                break;
            }
            if items.get(index + 1).is_some_and(|next| next.latest == item.latest) {
                continue;
            }
            spared += living[spared..].iter().take_while(|session| session.earliest < after).count();
            let listed = items.len() - index - 1;
            if listed + spared < fewest {
                (fewest, watermark) = (listed + spared, Some(after));
            }
        }
        let before = |second: i64| watermark.is_some_and(|watermark| second < watermark);
        Self {
            listed: items.iter().filter(|item| !before(item.latest)).map(|item| item.entry).collect(),
            spared: living
                .iter()
                .filter(|session| before(session.earliest))
                .map(|session| session.slot)
                .collect(),
            watermark,
        }
    }

    /// How many entries it has.
    pub fn entries(&self) -> usize {
        self.listed.len() + self.spared.len()
    }

    /// The policy document, without white space.
    pub fn text(&self) -> String {
        let mut statements = vec![deny(json!({"Null": {tag(): "true"}}))];
        if !self.listed.is_empty() {
            let listed: Vec<String> = self.listed.iter().map(|entry| entry.pattern()).collect();
            statements.push(deny(json!({"StringLike": {tag(): listed}})));
        }
        if let Some(watermark) = self.watermark {
            let mut condition = json!({"DateLessThan": {"aws:TokenIssueTime": second(watermark)}});
            if !self.spared.is_empty() {
                let spared: Vec<String> = self.spared.iter().map(ToString::to_string).collect();
                condition["StringNotLike"] = json!({tag(): spared});
            }
            statements.push(deny(condition));
        }
        json!({"Version": "2012-10-17", "Statement": statements}).to_string()
    }
}

/// Revoked sessions; those of a block in which none lives go together.
fn items(sessions: &[Session]) -> Vec<Item> {
    let open: BTreeSet<Block> =
        sessions.iter().filter(|session| !session.revoked).map(|session| session.slot.block()).collect();
    let mut closed = BTreeMap::<Block, Vec<&Session>>::new();
    let mut items = Vec::new();
    for session in sessions.iter().filter(|session| session.revoked) {
        let block = session.slot.block();
        match open.contains(&block) {
            true => items.push(Item { entry: Entry::Slot(session.slot), latest: session.latest }),
            false => closed.entry(block).or_default().push(session),
        }
    }
    items.extend(closed.into_iter().filter_map(|(block, sessions)| {
        let latest = sessions.iter().map(|session| session.latest).max()?;
        let entry = match sessions[..] {
            [one] => Entry::Slot(one.slot),
            _ => Entry::Block(block),
        };
        Some(Item { entry, latest })
    }));
    items
}

impl Entry {
    fn pattern(self) -> String {
        match self {
            Entry::Slot(slot) => slot.to_string(),
            Entry::Block(block) => format!("{block}*"),
        }
    }
}

fn deny(condition: Value) -> Value {
    json!({"Effect": "Deny", "Action": "*", "Resource": "*", "Condition": condition})
}

fn tag() -> String {
    format!("aws:PrincipalTag/{SLOT_TAG}")
}

/// `2026-01-31T23:59:59Z` (IAM User Guide, "Date condition operators": ISO 8601).
fn second(unix: i64) -> String {
    let with_millis = Timestamp::from_unix_seconds(unix).to_string();
    with_millis.replace(".000Z", "Z")
}
