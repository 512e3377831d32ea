//! Approvals: what a second admin allowed one identity to ask, until when.

mod request;

use sha2::{Digest, Sha256};

use crate::scope::ScopeAsk;
use crate::spiffe::SpiffeId;
use crate::time::Timestamp;

pub use self::request::{
    ApprovalRequest, Host, MAX_REASON, MAX_TICKET, NotApprovable, NotRequestable, Said, Standing, Verdict,
    check_request,
};

/// An approved request for access. It stands beside a binding and grants nothing by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Approval {
    /// Its id.
    pub id: String,
    /// Who may ask.
    pub identity: SpiffeId,
    /// For what, with which values.
    pub ask: ScopeAsk,
    /// From this moment on it allows nothing.
    pub until: Timestamp,
    /// Digest of all that was approved: see [`digest`].
    pub digest: String,
}

impl Approval {
    /// Whether it allows the ask now, on the scope as it stands. A scope that changed since voids it.
    pub fn allows(&self, identity: &SpiffeId, ask: &ScopeAsk, scope_digest: &str, now: Timestamp) -> bool {
        now < self.until
            && self.identity == *identity
            && self.ask == *ask
            && self.digest == digest(identity, ask, scope_digest, self.until)
    }
}

/// SHA-256 over identity, scope, the scope's document, parameters and end, hexadecimal. What an approver approves.
pub fn digest(identity: &SpiffeId, ask: &ScopeAsk, scope_digest: &str, until: Timestamp) -> String {
    let whole = serde_json::json!({
        "identity": identity,
        "scope": ask.scope,
        "scope_digest": scope_digest,
        "parameters": ask.parameters,
        "until": until.unix_millis(),
    });
    let text = serde_json_canonicalizer::to_string(&whole).expect("plain data");
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Ttl;

    #[test]
    fn any_change_of_what_was_approved_voids_it() {
        let identity: SpiffeId = "spiffe://example.org/train/a".parse().expect("an id");
        let ask = ScopeAsk { scope: "s".into(), parameters: [("p".to_owned(), "1".to_owned())].into() };
        let until = Timestamp::from_unix_millis(10_000);
        let approval = Approval {
            id: "1".into(),
            identity: identity.clone(),
            ask: ask.clone(),
            until,
            digest: digest(&identity, &ask, "d1", until),
        };
        let now = Timestamp::from_unix_millis(9_999);
        assert!(approval.allows(&identity, &ask, "d1", now));
        assert!(!approval.allows(&identity, &ask, "d1", until));
        assert!(!approval.allows(&identity, &ask, "d2", now));
        let other: SpiffeId = "spiffe://example.org/train/b".parse().expect("an id");
        assert!(!approval.allows(&other, &ask, "d1", now));
        let more = ScopeAsk { parameters: [("p".to_owned(), "2".to_owned())].into(), ..ask.clone() };
        assert!(!approval.allows(&identity, &more, "d1", now));
        let longer = Approval { until: until + Ttl::hours(1), ..approval };
        assert!(!longer.allows(&identity, &ask, "d1", now));
    }
}
