//! Holds back who asks too often, before anything is read from the store for it or recorded of it one by one.
//!
//! Only what gives is paced. Ending a task and taking a credential back never are.

use std::time::Instant;

use dayfly_domain::id::SessionId;

use super::{Broker, OperationError, Request};
use crate::rate::Payer;

/// What a request counts against.
#[derive(Clone, Copy, Debug)]
pub enum Against<'a> {
    /// The caller's identity. Known before anything is read.
    Caller,
    /// A scope by name, if a binding on it is for the caller: nobody else can use up what others may ask.
    Scope(&'a str),
    /// A session, once it is known that the caller acts in it.
    Session(SessionId),
}

impl Broker {
    /// Counts one request against each of these in turn, or refuses it.
    pub fn pace(&self, request: &Request, against: &[Against<'_>]) -> Result<(), OperationError> {
        against.iter().try_for_each(|one| self.pace_one(request, *one))
    }

    fn pace_one(&self, request: &Request, against: Against<'_>) -> Result<(), OperationError> {
        let identity = &request.caller.spiffe_id;
        let limits = &self.limits;
        let (payer, per_minute, limit) = match against {
            Against::Caller => {
                let payer = Payer::Identity(identity.clone());
                (payer, limits.requests_per_minute_per_identity, "rate_identity")
            }
            Against::Session(session) => {
                (Payer::Session(session), limits.requests_per_minute_per_session, "rate_session")
            }
            Against::Scope(name) => {
                let rules = self.rules.load();
                let Some(scope) = rules.scope(name) else { return Ok(()) };
                if rules.bindings_on(name, identity).is_empty() {
                    return Ok(());
                }
                let own = scope.limits.requests_per_minute.unwrap_or(u32::MAX);
                let most = own.min(limits.requests_per_minute_per_scope);
                (Payer::Scope(name.to_owned()), most, "rate_scope")
            }
        };
        let (kind, name) = (payer.kind(), payer.name());
        self.rate.take(payer, per_minute, Instant::now()).map_err(|wait| {
            self.held_back(limit, &name, request);
            OperationError::TooOften { kind, name, per_minute, wait }
        })
    }

    /// Counts a refusal for want of room: in the metrics, and in one record a minute.
    pub(super) fn held_back(&self, limit: &'static str, who: &str, request: &Request) {
        self.metrics.limited(limit);
        self.limited.note(limit, who, request.at);
    }
}
