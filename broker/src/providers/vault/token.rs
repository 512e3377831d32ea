//! The token of one lease: what it must be, and the handle that takes it back.

use std::collections::BTreeSet;

use dayfly_domain::lease::{Handle, Lease, LeaseState};
use dayfly_domain::time::Ttl;
use serde::{Deserialize, Serialize};

use super::endpoints::Auth;
use super::target::{Kind, Target};

/// Longest id of a lease at Vault that is kept.
const MAX_LEASE_ID: usize = 512;
/// Most leases of one token that are ended by name; the rest ends with the token.
const MAX_LEASES: usize = 256;

/// The handle of a lease, as it stands in its row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Held {
    /// The token's accessor. Empty if Vault gave a token without one, which nobody can revoke.
    pub(super) accessor: String,
    /// The cluster that gave it: only there does "unknown accessor" mean that it is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) cluster: Option<String>,
    /// Leases of dynamic secrets that were read with the token.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) lease_ids: Vec<String>,
    /// What the scope says can be read with the token.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(super) kinds: BTreeSet<Kind>,
}

impl Held {
    pub(super) fn handle(&self) -> Handle {
        Handle(serde_json::to_value(self).expect("plain data"))
    }

    /// The handle of a lease; `None` while the answer that would hold it is out.
    pub(super) fn of(lease: &Lease) -> Option<Result<Self, serde_json::Error>> {
        let handle = match &lease.state {
            LeaseState::Active { handle, .. } => handle,
            LeaseState::Revoking { handle, .. } => handle.as_ref()?,
            LeaseState::Pending { .. } | LeaseState::Ended { .. } => return None,
        };
        Some(Held::deserialize(&handle.0))
    }

    /// Takes in the id of a lease that was read with the token. False if it is known, malformed, or one too many.
    pub(super) fn note(&mut self, lease_id: &str) -> bool {
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"/_.-".contains(&byte);
        // Vault's own ids: the path that was read, then a random name. Login leases (`auth/…`) are tokens of others.
        let of_an_engine = lease_id.len() <= MAX_LEASE_ID
            && lease_id.contains('/')
            && !lease_id.starts_with("auth/")
            && !lease_id.contains("..")
            && lease_id.bytes().all(legal);
        let wanted = of_an_engine
            && self.lease_ids.len() < MAX_LEASES
            && !self.lease_ids.iter().any(|id| id == lease_id);
        if wanted {
            self.lease_ids.push(lease_id.to_owned());
        }
        wanted
    }

    /// What the end of the token does not undo.
    pub(super) fn stays(&self) -> String {
        let stays = |kind: &&Kind| matches!(kind, Kind::Static | Kind::Certificate);
        let words: Vec<&str> = self.kinds.iter().filter(stays).map(|kind| kind.as_str()).collect();
        if words.is_empty() {
            String::new()
        } else {
            format!("; what was read of kind {} stays with its reader", words.join(", "))
        }
    }
}

/// In what a token differs from what its scope says; `at_most` bounds its present life.
pub(super) fn differences(auth: &Auth, target: &Target, at_most: Ttl) -> Vec<String> {
    let mut found = Vec::new();
    if auth.policies != target.policies {
        let names =
            |policies: &BTreeSet<String>| policies.iter().map(String::as_str).collect::<Vec<_>>().join(",");
        found.push(format!("its policies are {}, not {}", names(&auth.policies), names(&target.policies)));
    }
    if !auth.orphan {
        found.push("it is not an orphan (orphan=true)".to_owned());
    }
    if auth.token_type != "service" {
        found.push(format!("its type is {}, not service (token_type=service)", auth.token_type));
    }
    if !auth.entity_id.is_empty() {
        found.push("it carries an identity entity".to_owned());
    }
    if !auth.renewable {
        found.push("it cannot be renewed (renewable=true)".to_owned());
    }
    if auth.lease_duration == 0 {
        found.push("it has no end".to_owned());
    } else if auth.lease_duration > at_most.as_seconds() {
        found.push(format!("it lives {}, not {at_most} (token_period=0)", Ttl::seconds(auth.lease_duration)));
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn auth(change: Value) -> Auth {
        let mut auth = json!({
            "client_token": "hvs.x", "accessor": "acc", "policies": ["kb-read"], "token_policies": ["kb-read"],
            "lease_duration": 30, "renewable": true, "entity_id": "", "token_type": "service", "orphan": true,
        });
        let change = change.as_object().expect("a mapping").clone();
        auth.as_object_mut().expect("a mapping").extend(change);
        serde_json::from_value(auth).expect("an answer")
    }

    #[test]
    fn every_difference_from_the_scope_is_found() {
        let target = Target {
            role: "kb".into(),
            policies: ["kb-read".to_owned()].into(),
            explicit_max_ttl: Ttl::hours(8),
            kinds: BTreeSet::new(),
        };
        assert_eq!(differences(&auth(json!({})), &target, Ttl::seconds(30)), Vec::<String>::new());
        for (change, word) in [
            (json!({"policies": ["default", "kb-read"]}), "default,kb-read"),
            (json!({"policies": []}), "policies"),
            (json!({"orphan": false}), "orphan"),
            (json!({"token_type": "batch"}), "batch"),
            (json!({"entity_id": "e1"}), "entity"),
            (json!({"renewable": false}), "renewed"),
            (json!({"lease_duration": 31}), "31s"),
            (json!({"lease_duration": 0}), "no end"),
        ] {
            let found = differences(&auth(change.clone()), &target, Ttl::seconds(30));
            assert!(found.len() == 1 && found[0].contains(word), "{change}: {found:?}");
        }
    }

    #[test]
    fn a_handle_reads_back_and_holds_no_token() {
        let held = Held {
            accessor: "acc".into(),
            cluster: Some("c".into()),
            lease_ids: vec!["pki/issue/a/b".into()],
            kinds: [Kind::Static].into(),
        };
        let Handle(value) = held.handle();
        assert_eq!(
            value,
            json!({"accessor": "acc", "cluster": "c", "lease_ids": ["pki/issue/a/b"], "kinds": ["static"]})
        );
        assert_eq!(Held::deserialize(&value).expect("reads"), held);
        assert_eq!(
            Held::deserialize(&json!({"accessor": "acc"})).expect("reads").lease_ids,
            Vec::<String>::new()
        );
    }
}
