//! Who is an admin. Root admins stand in the broker's own configuration; break-glass is uid 0 on the broker's host.

use dayfly_client::Peer;
use dayfly_domain::audit::{Record, Stream};
use dayfly_domain::id::RequestId;
use dayfly_domain::spiffe::SpiffeId;
use dayfly_domain::stage::Stage;

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
    /// Say yes to what another admin requested.
    Approve,
    /// Bring signing keys through their life.
    Key,
}

impl Verb {
    /// The built-in scope that a binding names.
    pub const fn scope(self) -> &'static str {
        match self {
            Verb::Read => "admin.read",
            Verb::Revoke => "admin.revoke",
            Verb::Apply => "admin.apply",
            Verb::Approve => "admin.approve",
            Verb::Key => "admin.key",
        }
    }

    /// The verb in words.
    pub const fn name(self) -> &'static str {
        match self {
            Verb::Read => "read",
            Verb::Revoke => "revoke",
            Verb::Apply => "apply",
            Verb::Approve => "approve",
            Verb::Key => "key",
        }
    }
}

/// An admin whose identity was proven for this call.
#[derive(Clone, Debug)]
pub enum Admin {
    /// Named in the broker's configuration.
    Root(SpiffeId),
    /// Of stage `admin`, with a binding for the verb.
    Bound(SpiffeId),
    /// uid 0 on the break-glass socket: reads and revokes, never grants.
    BreakGlass,
}

impl Admin {
    /// The admin's name in records.
    pub fn name(&self) -> String {
        match self {
            Admin::Root(id) | Admin::Bound(id) => id.to_string(),
            Admin::BreakGlass => "break-glass (uid 0)".to_owned(),
        }
    }

    /// Whether this admin has the verb.
    pub fn may(&self, verb: Verb) -> bool {
        match (self, verb) {
            (
                Admin::Root(_) | Admin::Bound(_),
                Verb::Read | Verb::Revoke | Verb::Apply | Verb::Approve | Verb::Key,
            ) => true,
            (Admin::BreakGlass, Verb::Read | Verb::Revoke) => true,
            (Admin::BreakGlass, Verb::Apply | Verb::Approve | Verb::Key) => false,
        }
    }
}

/// Admits an admin by its own X.509-SVID: never through an agent, never federated.
pub fn admit(broker: &Broker, peer: &Peer, verb: Verb) -> Result<Admin, OperationError> {
    check_fresh(peer, broker.clock.now())?;
    let id = spiffe_id(&peer.spiffe_id);
    if broker.rules.load().cuts_off(&id) {
        return Err(OperationError::NotAdmin(format!("{id} is cut off")));
    }
    if broker.root_admins.contains(&id) {
        return Ok(Admin::Root(id));
    }
    if is_bound(broker, &id, verb) {
        Ok(Admin::Bound(id))
    } else {
        Err(OperationError::NotAdmin(format!("{id} may not {}", verb.name())))
    }
}

/// Whether an admin that was admitted for one verb has another too.
pub fn also_may(broker: &Broker, admin: &Admin, verb: Verb) -> bool {
    match admin {
        Admin::Root(_) | Admin::BreakGlass => admin.may(verb),
        Admin::Bound(id) => is_bound(broker, id, verb),
    }
}

fn is_bound(broker: &Broker, id: &SpiffeId, verb: Verb) -> bool {
    let (rules, now) = (broker.rules.load(), broker.clock.now());
    rules.stage_of(id) == Some(Stage::Admin)
        && rules.bindings_on(verb.scope(), id).iter().any(|one| one.may_use && one.stands(now))
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
    let admin = Admin::BreakGlass;
    if !admin.may(verb) {
        return Err(OperationError::NotAdmin(format!("break-glass may not {}", verb.name())));
    }
    tracing::warn!(alarm = "break_glass", ?verb, "break-glass used");
    let record = Record::new(Stream::Admin, "admin.break_glass", broker.clock.now())
        .request(request)
        .with("verb", verb.name());
    // Taking away is never refused for want of a record.
    if let Err(error) = broker.store.write_records(vec![record]).await {
        tracing::error!(
            error = &error as &dyn std::error::Error,
            "a use of break-glass could not be recorded"
        );
    }
    Ok(admin)
}
