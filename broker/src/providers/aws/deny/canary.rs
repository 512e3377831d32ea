//! Shows that a document is effective: a session of the same role that is the broker's own, and is denied with the others.
//!
//! Nobody holds a workload's session but the workload, and a refusal for want of a right proves nothing. A canary is
//! opened before the document that denies it, and seen not to be denied; then the document is written; once AWS says
//! that it denies the canary explicitly, that document is what AWS evaluates, there.

use aws_sdk_sts::config::Credentials;
use dayfly_domain::aws_deny::{RevokeWhen, Session};
use dayfly_domain::id::{LeaseId, TaskId};
use dayfly_domain::time::{Timestamp, Ttl};

use super::super::assertion::{Assertion, LIFE};
use super::super::errors::CallError;
use super::super::minter::Wanted;
use super::super::target::SHORTEST_SESSION;
use super::super::{seconds, session_of};
use super::role::RoleArn;
use super::{CLOCK_SKEW, Shared, gone_at};
use crate::signer::Use;
use crate::store::slots::SlotAsk;

/// Subject of a canary's assertion, and the scope in its tag: the role's trust policy takes both together.
pub(super) const CANARY: &str = "dayfly-canary";

/// All that a canary may do, whatever its role may. The action is evaluated like every other
/// (Service Authorization Reference, "AWS STS"); that of `GetCallerIdentity` is not.
const POLICY: &str = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"sts:GetAccessKeyInfo","Resource":"*"}]}"#;

/// A canary is replaced when it has so little left: longer than a document takes to become effective.
const RENEWED_BEFORE: Ttl = Ttl::minutes(6);

fn told(error: impl std::error::Error + 'static) -> String {
    dayfly_client::chain(&error)
}

/// A session that proves.
pub(super) struct Canary {
    pub(super) id: LeaseId,
    credentials: Credentials,
    expires_at: Timestamp,
}

/// What AWS makes of a canary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// A policy of its role denies it explicitly.
    Denied,
    /// Nothing of its role denies it.
    NotDenied,
    /// It cannot be told.
    Unclear(String),
}

impl Canary {
    /// Opens one, and sees that it is not denied.
    pub(super) async fn open(shared: &Shared, role: &RoleArn) -> Result<Self, String> {
        let now = shared.clock.now();
        let id = LeaseId::new(now, rand::random());
        let ask = SlotAsk {
            lease: id,
            tree: None,
            revoke_when: RevokeWhen::Always,
            roles: vec![role.as_str().to_owned()],
            given_by: now + LIFE,
            gone_at: gone_at(now, SHORTEST_SESSION),
            skew: CLOCK_SKEW,
            spare: 0,
            entropy: rand::random(),
            now,
        };
        let place = shared.store.reserve_slot(ask).await.map_err(told)?;
        let slot = place.slot.to_string();
        let name = format!("{CANARY}-{id}");
        let claims = Assertion {
            issuer: shared.minter.issuer(Use::Federation),
            audience: shared.minter.audience(),
            subject: CANARY,
            role_arn: role.as_str(),
            lease: id,
            task: TaskId::new(now, 0),
            scope: CANARY,
            slot: Some(&slot),
            tags: &Default::default(),
            now,
        };
        let claims = claims.claims().expect("the subject is short");
        let wanted = Wanted {
            role_arn: role.as_str(),
            session_name: &name,
            policy: POLICY,
            seconds: seconds(SHORTEST_SESSION),
        };
        let opened = shared.minter.assume(Use::Federation, &claims, wanted).await.and_then(session_of);
        let (credentials, expires_at) = opened.map_err(told)?;
        let session =
            Session::between(place.slot, now, shared.clock.now(), expires_at + CLOCK_SKEW, CLOCK_SKEW);
        shared.store.settle_slot(id, session).await.map_err(told)?;
        let canary = Self { id, credentials, expires_at };
        match canary.look(shared).await {
            Seen::NotDenied => Ok(canary),
            Seen::Denied => {
                Err("a policy denies it before any document of ours does; it would prove nothing".to_owned())
            }
            Seen::Unclear(why) => Err(why),
        }
    }

    /// Whether it will still be there when a document that is written now is effective.
    pub(super) fn will_last(&self, now: Timestamp) -> bool {
        now + RENEWED_BEFORE < self.expires_at
    }

    /// Whether it can still tell anything.
    pub(super) fn lasts(&self, now: Timestamp) -> bool {
        now < self.expires_at
    }

    /// Asks what AWS makes of it.
    pub(super) async fn look(&self, shared: &Shared) -> Seen {
        match shared.minter.sts.try_session(&self.credentials).await {
            Ok(()) => Seen::NotDenied,
            // IAM User Guide, "Troubleshoot access denied error messages": "with an explicit deny in an identity-based
            // policy". In a session policy or a boundary it is none of ours.
            Err(CallError::Said { status: 403, message, .. })
                if message.contains("explicit deny in an identity-based policy") =>
            {
                Seen::Denied
            }
            Err(CallError::Said { status: 403, code, message }) if code.starts_with("AccessDenied") => {
                match message.contains("explicit deny") {
                    true => Seen::Unclear(message),
                    false => Seen::NotDenied,
                }
            }
            Err(error) => Seen::Unclear(error.to_string()),
        }
    }
}
