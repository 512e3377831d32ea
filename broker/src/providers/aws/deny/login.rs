//! The revoker's own sessions: another issuer, another key, another role than those that mint.

use std::collections::HashMap;
use std::sync::Arc;

use aws_sdk_sts::config::Credentials;
use dayfly_domain::id::LeaseId;
use dayfly_domain::time::{Timestamp, Ttl};
use serde_json::json;
use tokio::sync::Mutex;

use super::super::assertion::LIFE;
use super::super::errors::CallError;
use super::super::minter::{Minter, Wanted};
use super::super::target::SHORTEST_SESSION;
use super::super::{seconds, session_of};
use super::role::RoleArn;
use crate::clock::Clock;
use crate::signer::Use;

/// Subject, session name and source identity of the revoker.
pub(super) const REVOKER: &str = "dayfly-revoker";

/// All that a session of the revoker may do, whatever its role may.
const POLICY: &str = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["iam:PutRolePolicy","iam:GetRolePolicy","iam:ListRolePolicies"],"Resource":"*"}]}"#;

/// A session is replaced when it has so little left.
const RENEWED_BEFORE: Ttl = Ttl::minutes(5);

/// Keeps one session in each account.
pub(super) struct Logins {
    minter: Arc<Minter>,
    clock: Clock,
    /// Path and name of the revoker's role, the same in each account.
    role: String,
    sessions: Mutex<HashMap<String, (Credentials, Timestamp)>>,
}

impl Logins {
    pub(super) fn new(minter: Arc<Minter>, role: String) -> Self {
        Self { minter, clock: Clock::default(), role, sessions: Mutex::default() }
    }

    /// A session in the account of a role.
    pub(super) async fn for_account_of(&self, role: &RoleArn) -> Result<Credentials, CallError> {
        let revoker = role.sibling(&self.role);
        // Held while STS is asked, so that it is asked once.
        let mut sessions = self.sessions.lock().await;
        let now = self.clock.now();
        if let Some((session, until)) = sessions.get(&revoker)
            && now + RENEWED_BEFORE < *until
        {
            return Ok(session.clone());
        }
        let claims = json!({
            "iss": self.minter.issuer(Use::Revocation),
            "sub": REVOKER,
            "aud": self.minter.audience(),
            "iat": now.unix_seconds(),
            "exp": (now + LIFE).unix_seconds(),
            "jti": LeaseId::new(now, rand::random()),
            "https://aws.amazon.com/source_identity": REVOKER,
            "https://aws.amazon.com/roles": [revoker],
        });
        let wanted = Wanted {
            role_arn: &revoker,
            session_name: REVOKER,
            policy: POLICY,
            seconds: seconds(SHORTEST_SESSION),
        };
        let answer = self.minter.assume(Use::Revocation, &claims, wanted).await?;
        let (session, until) = session_of(answer)?;
        sessions.insert(revoker, (session.clone(), until));
        Ok(session)
    }

    /// The session is not taken any more.
    pub(super) async fn forget(&self, role: &RoleArn) {
        self.sessions.lock().await.remove(&role.sibling(&self.role));
    }
}
