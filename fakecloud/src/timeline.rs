//! What a role's inline policies say, and since when in which region (AWS, "Changes that I make are not always immediately
//! visible").

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::policy::Document;

/// How long a change of a policy takes until requests feel it, in milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Propagation {
    /// In every region that is not named.
    pub everywhere_ms: i64,
    /// In these regions.
    pub regions_ms: BTreeMap<String, i64>,
}

impl Propagation {
    fn to(&self, region: &str) -> i64 {
        *self.regions_ms.get(region).unwrap_or(&self.everywhere_ms)
    }

    fn longest(&self) -> i64 {
        self.regions_ms.values().copied().fold(self.everywhere_ms, i64::max)
    }
}

/// One inline policy.
#[derive(Clone, Debug)]
pub(crate) struct Inline {
    /// As it was put.
    pub(crate) text: String,
    pub(crate) document: Arc<Document>,
}

/// All inline policies of a role, by name.
pub(crate) type Policies = BTreeMap<String, Inline>;

#[derive(Clone, Debug)]
struct Version {
    at_ms: i64,
    propagation: Propagation,
    policies: Arc<Policies>,
}

/// The versions of a role's inline policies that are still in effect somewhere, and those on their way. Never empty.
#[derive(Clone, Debug)]
pub(crate) struct Timeline(Vec<Version>);

impl Timeline {
    /// In effect everywhere.
    pub(crate) fn new(policies: Policies) -> Self {
        let propagation = Propagation::default();
        Self(vec![Version { at_ms: i64::MIN, propagation, policies: Arc::new(policies) }])
    }

    /// What was put last: IAM shows one's own writes.
    pub(crate) fn latest(&self) -> &Policies {
        &self.0.last().expect("never empty").policies
    }

    /// What requests in this region feel.
    pub(crate) fn effective(&self, region: &str, now_ms: i64) -> &Policies {
        let arrived = |version: &&Version| version.has_arrived(version.propagation.to(region), now_ms);
        &self.0.iter().rev().find(arrived).unwrap_or(&self.0[0]).policies
    }

    /// Adds a version.
    pub(crate) fn put(&mut self, policies: Policies, propagation: &Propagation, now_ms: i64) {
        self.0.push(Version {
            at_ms: now_ms,
            propagation: propagation.clone(),
            policies: Arc::new(policies),
        });
        let arrived = |version: &Version| version.has_arrived(version.propagation.longest(), now_ms);
        if let Some(newest) = self.0.iter().rposition(arrived) {
            self.0.drain(..newest);
        }
    }
}

impl Version {
    fn has_arrived(&self, delay_ms: i64, now_ms: i64) -> bool {
        self.at_ms.saturating_add(delay_ms) <= now_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Kind;

    fn policies(name: &str) -> Policies {
        let text = r#"{"Statement":{"Effect":"Deny","Action":"*","Resource":"*"}}"#.to_owned();
        let document = Arc::new(Document::parse(&text, Kind::Permissions).expect("a policy"));
        [(name.to_owned(), Inline { text, document })].into()
    }

    #[test]
    fn a_change_arrives_in_each_region_after_its_own_time() {
        let propagation =
            Propagation { everywhere_ms: 100, regions_ms: [("eu-west-1".to_owned(), 300)].into() };
        let mut timeline = Timeline::new(policies("first"));
        timeline.put(policies("second"), &propagation, 1_000);
        let seen =
            |timeline: &Timeline, region: &str, at| timeline.effective(region, at).keys().next().cloned();
        for (region, at, name) in [
            ("us-east-1", 1_099, "first"),
            ("us-east-1", 1_100, "second"),
            ("eu-west-1", 1_299, "first"),
            ("eu-west-1", 1_300, "second"),
        ] {
            assert_eq!(seen(&timeline, region, at).as_deref(), Some(name), "{region} {at}");
        }
        assert!(timeline.latest().contains_key("second"), "IAM itself shows it at once");
        timeline.put(policies("third"), &Propagation::default(), 1_200);
        assert_eq!(seen(&timeline, "eu-west-1", 1_200).as_deref(), Some("third"));
        timeline.put(policies("fourth"), &Propagation::default(), 1_201);
        assert_eq!(timeline.0.len(), 1, "what is in effect nowhere is forgotten");
    }
}
