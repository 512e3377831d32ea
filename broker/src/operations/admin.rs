//! Who is an admin. Root admins stand in the broker's own configuration; break-glass is uid 0 on the broker's host.

use dayfly_client::Peer;
use dayfly_domain::audit::{Record, Stream};
use dayfly_domain::id::RequestId;
use dayfly_domain::spiffe::SpiffeId;

use super::{Broker, OperationError};
use crate::caller::{check_fresh, spiffe_id};

/// What an admin wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// See documents, tasks, leases, audit.
    Read,
    /// Take away.
    Revoke,
    /// Change documents.
    Apply,
}

/// An admin whose identity was proven for this call.
#[derive(Clone, Debug)]
pub enum Admin {
    /// Named in the broker's configuration.
    Root(SpiffeId),
    /// uid 0 on the break-glass socket: reads and revokes, never grants.
    BreakGlass,
}

impl Admin {
    /// The admin's name in records.
    pub fn name(&self) -> String {
        match self {
            Admin::Root(id) => id.to_string(),
            Admin::BreakGlass => "break-glass (uid 0)".to_owned(),
        }
    }

    /// Whether this admin has the verb.
    pub fn may(&self, verb: Verb) -> bool {
        match (self, verb) {
            (Admin::Root(_), Verb::Read | Verb::Revoke | Verb::Apply) => true,
            (Admin::BreakGlass, Verb::Read | Verb::Revoke) => true,
            (Admin::BreakGlass, Verb::Apply) => false,
        }
    }
}

/// Admits an admin by its own X.509-SVID: never through an agent, never federated.
pub fn admit(broker: &Broker, peer: &Peer, verb: Verb) -> Result<Admin, OperationError> {
    check_fresh(peer, broker.clock.now())?;
    let id = spiffe_id(&peer.spiffe_id);
    if !broker.root_admins.contains(&id) {
        return Err(OperationError::NotAdmin(format!("{id} is no admin of this broker")));
    }
    require(Admin::Root(id), verb)
}

/// Admits uid 0 on the break-glass socket. Every use is recorded and raises an alarm.
pub async fn admit_break_glass(
    broker: &Broker,
    uid: Option<u32>,
    verb: Verb,
    request: RequestId,
) -> Result<Admin, OperationError> {
    if uid != Some(0) {
        return Err(OperationError::NotAdmin("the break-glass socket answers uid 0 only".to_owned()));
    }
    let admin = require(Admin::BreakGlass, verb)?;
    tracing::warn!(alarm = "break_glass", ?verb, "break-glass used");
    let record = Record::new(Stream::Admin, "admin.break_glass", broker.clock.now())
        .request(request)
        .with("verb", format!("{verb:?}").to_lowercase());
    // Taking away is never refused for want of a record.
    if let Err(error) = broker.store.write_records(vec![record]).await {
        tracing::error!(
            error = &error as &dyn std::error::Error,
            "a use of break-glass could not be recorded"
        );
    }
    Ok(admin)
}

fn require(admin: Admin, verb: Verb) -> Result<Admin, OperationError> {
    if admin.may(verb) {
        return Ok(admin);
    }
    Err(OperationError::NotAdmin(format!("{} may not {}", admin.name(), format!("{verb:?}").to_lowercase())))
}
