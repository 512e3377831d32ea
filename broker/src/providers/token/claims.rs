//! What an access token says.

use dayfly_domain::id::{LeaseId, SessionId, TaskId};
use dayfly_domain::spiffe::SpiffeId;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Claims of an access token: RFC 9068, with `act` of RFC 8693, `cnf` of RFC 7800 and a few of our own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AccessClaims {
    /// The issuer, `<base>/access`.
    pub iss: String,
    /// The workload that acts. The broker is never here, nor in `act`.
    pub sub: SpiffeId,
    /// The one service the token is for.
    pub aud: String,
    /// When it runs out, in seconds since 1970-01-01T00:00:00Z.
    pub exp: i64,
    /// When it was issued, in the same seconds.
    pub iat: i64,
    /// The lease: by it the whole story is found.
    pub jti: LeaseId,
    /// RFC 9068 §2.2 wants it: the workload, again.
    pub client_id: SpiffeId,
    /// The session, the root of the task tree.
    pub txn: SessionId,
    /// The task.
    pub task: TaskId,
    /// What must be seen of the one who shows the token.
    pub cnf: Confirmation,
    /// Who opened the tasks above, the nearest outermost (RFC 8693 §4.1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub act: Option<Actor>,
    /// OAuth scope.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// The scope's own claims.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dayfly: Option<Map<String, Value>>,
    /// True in tokens of a development trust domain.
    #[serde(default, skip_serializing_if = "is_false")]
    pub dev: bool,
}

/// `cnf` (RFC 7800 §3.1): the token is good only in the hands of this identity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confirmation {
    /// The SPIFFE ID that the service must see on mutual TLS. Not a thumbprint: certificates rotate under a token.
    pub spiffe_id: SpiffeId,
}

/// One step of the chain (RFC 8693 §4.1).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    /// Who opened the task.
    pub sub: SpiffeId,
    /// Who opened the task above it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub act: Option<Box<Actor>>,
}

impl Actor {
    /// The chain above the one who acts. `openers` are those who opened each task, root first; that the subject itself
    /// opened the last one goes without saying.
    pub fn chain(openers: &[SpiffeId], subject: &SpiffeId) -> Option<Self> {
        let above = match openers.split_last() {
            Some((last, above)) if last == subject => above,
            _ => openers,
        };
        above.iter().fold(None, |act, opener| Some(Actor { sub: opener.clone(), act: act.map(Box::new) }))
    }
}

fn is_false(flag: &bool) -> bool {
    !flag
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ids(names: &[&str]) -> Vec<SpiffeId> {
        names.iter().map(|name| format!("spiffe://d/{name}").parse().expect("an id")).collect()
    }

    #[test]
    fn the_chain_nests_from_the_nearest_to_the_root() {
        let subject = &ids(&["tool"])[0];
        let chain = |names: &[&str]| {
            let act = Actor::chain(&ids(names), subject);
            serde_json::to_value(act).expect("JSON")
        };
        assert_eq!(chain(&["tool"]), json!(null));
        assert_eq!(chain(&["root", "tool"]), json!({"sub": "spiffe://d/root"}));
        let two = json!({"sub": "spiffe://d/mid", "act": {"sub": "spiffe://d/root"}});
        assert_eq!(chain(&["root", "mid", "tool"]), two);
        // A process of another identity in a task that "mid" opened.
        assert_eq!(chain(&["root", "mid"]), two);
        // The same identity opened both: each task is a step.
        assert_eq!(chain(&["tool", "tool"]), json!({"sub": "spiffe://d/tool"}));
    }
}
