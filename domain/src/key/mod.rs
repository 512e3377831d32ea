//! The life of a signing key: `announced → active → retiring → retired`, or `compromised` from any of them.
//!
//! The state is worked out from when each key was announced and when one was withheld, never stored, so that brokers
//! that see the same keys agree without asking each other. The newest key of a use stands by: it is published and signs
//! nothing. A new key behind it makes it the active one, at once, for everybody has read it long ago.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt;

use crate::time::{Timestamp, Ttl};

/// How long relying parties may keep a JWK Set that they read: `Cache-Control: max-age` (RFC 9111 §5.2.2.1).
pub const JWKS_MAX_AGE: Ttl = Ttl::minutes(5);
/// What brokers may differ by: their clocks, and when each learns of a new key. Verifiers' clocks too.
pub const MARGIN: Ttl = Ttl::minutes(1);
/// A key is published for this long before it signs: twice [`JWKS_MAX_AGE`] and the margin.
pub const ANNOUNCED_FOR: Ttl = Ttl::minutes(11);

/// What is known of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyFacts {
    /// Its `kid`.
    pub kid: String,
    /// Since when it is published.
    pub announced_at: Timestamp,
    /// Whether there was none before it: then nobody has read a set without it, and it signs at once.
    pub first: bool,
    /// When and why it was taken out, if it was.
    pub withheld: Option<Withheld>,
}

/// A key was taken out by an admin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Withheld {
    /// Since when.
    pub at: Timestamp,
    /// Why.
    pub why: Why,
}

/// Why a key was taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Why {
    /// Nobody needs it any more.
    Retired,
    /// Somebody else may have it.
    Compromised,
}

impl Why {
    /// Both.
    pub const ALL: [Why; 2] = [Why::Retired, Why::Compromised];

    /// In rows and records.
    pub const fn as_str(self) -> &'static str {
        match self {
            Why::Retired => "retired",
            Why::Compromised => "compromised",
        }
    }
}

/// Where a key stands in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyState {
    /// Published; signs nothing yet.
    Announced {
        /// From when on it may sign.
        usable_from: Timestamp,
    },
    /// Published, and signs.
    Active {
        /// Since when.
        since: Timestamp,
    },
    /// Published for what it signed; signs no more.
    Retiring {
        /// Until when what it signed may live.
        until: Timestamp,
    },
    /// Not published; nothing that it signed lives.
    Retired,
    /// Not published, and whatever it signed is refused.
    Compromised,
}

impl KeyState {
    /// Its name on the wire, in records and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            KeyState::Announced { .. } => "announced",
            KeyState::Active { .. } => "active",
            KeyState::Retiring { .. } => "retiring",
            KeyState::Retired => "retired",
            KeyState::Compromised => "compromised",
        }
    }

    /// Whether relying parties are shown it.
    pub const fn is_published(self) -> bool {
        match self {
            KeyState::Announced { .. } | KeyState::Active { .. } | KeyState::Retiring { .. } => true,
            KeyState::Retired | KeyState::Compromised => false,
        }
    }

    /// Whether it signs.
    pub const fn is_active(self) -> bool {
        matches!(self, KeyState::Active { .. })
    }
}

impl fmt::Display for KeyState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl KeyFacts {
    /// From when on it may sign.
    pub fn usable_from(&self) -> Timestamp {
        if self.first { self.announced_at } else { self.announced_at + ANNOUNCED_FOR }
    }

    fn withheld_by(&self, now: Timestamp) -> bool {
        self.withheld.is_some_and(|withheld| withheld.at <= now)
    }
}

/// The states of all keys of one use, in the order given. `longest_life` is that of the tokens they sign.
///
/// At most one is active; none is while no key that stands was published for long enough.
pub fn states(keys: &[KeyFacts], longest_life: Ttl, now: Timestamp) -> Vec<KeyState> {
    // By age; the name settles what was announced in one moment, alike at every broker.
    let mut order: Vec<usize> = (0..keys.len()).collect();
    order.sort_by_key(|&index| (keys[index].announced_at, &keys[index].kid));
    let mut course = Course::new(keys.len());
    let moments = keys.iter().flat_map(|key| {
        [Some(key.announced_at), Some(key.usable_from()), key.withheld.map(|withheld| withheld.at)]
    });
    let mut moments: BTreeSet<Timestamp> = moments.flatten().filter(|moment| *moment <= now).collect();
    moments.insert(now);
    for moment in moments {
        course.go_on(keys, &order, longest_life, moment);
    }
    let state = |(index, key): (usize, &KeyFacts)| match (key.withheld, course.superseded[index]) {
        (Some(Withheld { at, why: Why::Compromised }), _) if at <= now => KeyState::Compromised,
        (Some(Withheld { at, why: Why::Retired }), _) if at <= now => KeyState::Retired,
        _ if course.over[index] => KeyState::Retired,
        _ if course.active == Some(index) => KeyState::Active { since: course.since },
        (_, Some(last_used)) => KeyState::Retiring { until: last_used + longest_life + MARGIN },
        (_, None) => KeyState::Announced { usable_from: key.usable_from() },
    };
    keys.iter().enumerate().map(state).collect()
}

/// What happened to the keys so far, moment by moment.
struct Course {
    active: Option<usize>,
    since: Timestamp,
    was_active: Vec<bool>,
    /// Since when a newer key signs in its place.
    superseded: Vec<Option<Timestamp>>,
    /// For good: what was not published for a while is not published again.
    over: Vec<bool>,
}

impl Course {
    fn new(keys: usize) -> Self {
        Self {
            active: None,
            since: Timestamp::from_unix_millis(0),
            was_active: vec![false; keys],
            superseded: vec![None; keys],
            over: vec![false; keys],
        }
    }

    fn go_on(&mut self, keys: &[KeyFacts], order: &[usize], longest_life: Ttl, now: Timestamp) {
        for (superseded, over) in self.superseded.iter().zip(&mut self.over) {
            *over |= superseded.is_some_and(|last_used| last_used + longest_life + MARGIN <= now);
        }
        let stands = |&&index: &&usize| {
            keys[index].announced_at <= now && !keys[index].withheld_by(now) && !self.over[index]
        };
        let standing: Vec<usize> = order.iter().filter(stands).copied().collect();
        let newest = standing.last().copied();
        let usable = |index: &&usize| keys[**index].usable_from() <= now;
        // The newest stands by, unless it signed already or there is no other.
        let by_turn = |index: &&usize| newest != Some(**index) || self.was_active[**index];
        let active = standing.iter().filter(usable).rfind(by_turn).or(standing.iter().rfind(usable)).copied();
        if active != self.active {
            (self.active, self.since) = (active, now);
        }
        let Some(active) = active else { return };
        self.was_active[active] = true;
        for older in standing.into_iter().take_while(|index| *index != active) {
            self.superseded[older].get_or_insert(now);
        }
        self.superseded[active] = None;
    }
}
