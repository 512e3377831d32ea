//! Ends sessions: one deny document per role, written by one broker at a time, shown to be effective by a canary.
//!
//! A [`Denier`] finds places for sessions and takes them back. Each role has a [`keeper`] of its own, which writes the
//! role's document whenever somebody asks and looks after it when nobody does. What a document says is decided in
//! [`dayfly_domain::aws_deny`], from what the store knows.

mod canary;
mod iam;
mod keeper;
mod login;
mod role;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dayfly_domain::aws_deny::{RevokeWhen, Session};
use dayfly_domain::id::{LeaseId, SessionId};
use dayfly_domain::lease::Lease;
use dayfly_domain::time::{Timestamp, Ttl};
use prometheus_client::metrics::counter::Counter;
use tokio_util::sync::{CancellationToken, DropGuard};

use self::iam::Iam;
use self::keeper::{Desk, Keeper};
pub(super) use self::role::RoleArn;
use super::super::{IssueError, Revocation, RevokeError};
use super::NAME;
use super::assertion::LIFE;
use super::config::{AwsConfig, AwsConfigError, RevokerConfig};
use super::minter::Minter;
use crate::clock::Clock;
use crate::store::slots::{Place, SlotAsk};
use crate::store::{Store, StoreError};

/// How far AWS's clock may be from a broker's. A session that was issued outside of this is not handed out.
pub(super) const CLOCK_SKEW: Ttl = Ttl::seconds(30);
/// Between two writes of one document.
const WRITE_PAUSE: Ttl = Ttl::seconds(1);
/// How long until a lease whose answer was lost is on record as given up.
const GIVEN_UP: Ttl = Ttl::seconds(2);
/// How long a revocation waits for its document.
const PATIENCE: Duration = Duration::from_secs(8);
/// Places of a role that are kept for its canaries.
const SPARE_PLACES: u32 = 64;

/// What becomes of deny documents, for the operator.
#[derive(Clone, Debug, Default)]
pub struct DenyCounts {
    /// Documents that AWS took.
    pub written: Counter,
    /// Writes that failed and are tried again.
    pub failed: Counter,
    /// Documents, or policies beside them, that somebody else changed.
    pub changed: Counter,
    /// Versions that a canary showed to be effective.
    pub proven: Counter,
}

/// What the denier needs of the broker.
#[derive(Clone)]
pub struct DenyParts {
    /// Where slots are kept.
    pub store: Arc<dyn Store>,
    /// This broker's name among those that share the store.
    pub owner: String,
    /// Where what happens is counted.
    pub counts: DenyCounts,
}

struct Shared {
    store: Arc<dyn Store>,
    owner: String,
    counts: DenyCounts,
    iam: Iam,
    minter: Arc<Minter>,
    clock: Clock,
    propagation: Ttl,
}

/// Finds places for sessions, and denies them.
pub(super) struct Denier {
    shared: Arc<Shared>,
    desks: Mutex<HashMap<String, Arc<Desk>>>,
    stop: CancellationToken,
    _stops: DropGuard,
}

/// What is asked of a lease's session before STS hears of it.
pub(super) struct SessionAsk {
    pub(super) lease: LeaseId,
    pub(super) tree: SessionId,
    pub(super) revoke_when: RevokeWhen,
    pub(super) roles: Vec<String>,
    pub(super) ttl: Ttl,
}

impl Denier {
    pub(super) fn new(
        config: &AwsConfig,
        revoker: &RevokerConfig,
        minter: Arc<Minter>,
        parts: DenyParts,
    ) -> Result<Self, AwsConfigError> {
        let DenyParts { store, owner, counts } = parts;
        let iam = Iam::new(config, revoker, Arc::clone(&minter))?;
        let propagation = revoker.propagation;
        let shared = Shared { store, owner, counts, iam, minter, clock: Clock::default(), propagation };
        let stop = CancellationToken::new();
        let stops = stop.clone().drop_guard();
        Ok(Self { shared: Arc::new(shared), desks: Mutex::default(), stop, _stops: stops })
    }

    /// Looks after what an earlier life left.
    pub(super) async fn start(&self) -> Result<(), StoreError> {
        for role in self.shared.store.slot_roles().await? {
            self.desk(&role);
        }
        Ok(())
    }

    /// The longest that a session can work after it was taken back, if nothing fails.
    pub(super) fn worst_case(&self) -> Ttl {
        Ttl::millis(self.shared.propagation.as_millis().saturating_add(WRITE_PAUSE.as_millis()))
    }

    /// Why the revoker could not write the role's document, if it could not.
    pub(super) async fn try_role(&self, role: &str) -> Result<(), String> {
        let role: RoleArn = role.parse()?;
        let read = self.shared.iam.document(&role).await;
        read.map(drop).map_err(|error| format!("the revoker cannot read the role's policies: {error}"))
    }

    /// A place for a session of a lease. Nothing was asked of AWS yet.
    pub(super) async fn reserve(&self, ask: SessionAsk) -> Result<Place, IssueError> {
        let now = self.shared.clock.now();
        let ask = SlotAsk {
            lease: ask.lease,
            tree: Some(ask.tree),
            revoke_when: ask.revoke_when,
            roles: ask.roles,
            given_by: now + LIFE,
            gone_at: gone_at(now, ask.ttl),
            skew: CLOCK_SKEW,
            spare: SPARE_PLACES,
            entropy: rand::random(),
            now,
        };
        match self.shared.store.reserve_slot(ask).await {
            Ok(place) => {
                self.desk(&place.role);
                Ok(place)
            }
            Err(error @ StoreError::RolesFull { .. }) => {
                Err(IssueError::Full { provider: NAME, what: error.to_string() })
            }
            Err(error) => Err(IssueError::Unreach {
                provider: NAME,
                what: "no place for the session could be reserved; nothing was asked".to_owned(),
                source: Some(error.into()),
            }),
        }
    }

    /// STS gave the session. What is noted makes a later document shorter; without it, it is as right.
    pub(super) async fn settle(
        &self,
        lease: LeaseId,
        place: &Place,
        asked: Timestamp,
        expires_at: Timestamp,
    ) {
        let given = self.shared.clock.now();
        let session = Session::between(place.slot, asked, given, expires_at + CLOCK_SKEW, CLOCK_SKEW);
        if let Err(error) = self.shared.store.settle_slot(lease, session).await {
            tracing::warn!(lease_id = %lease, error = dayfly_client::chain(&error), "a session's times could not be noted");
        }
    }

    /// STS gave nothing.
    pub(super) async fn release(&self, lease: LeaseId) {
        if let Err(error) = self.shared.store.release_slot(lease).await {
            tracing::warn!(lease_id = %lease, error = dayfly_client::chain(&error), "a slot could not be freed; it runs out");
        }
    }

    /// What is given up without a handle is in no queue: the role's document is looked at once that is on record.
    pub(super) fn deny_soon(&self, role: &str) {
        let desk = self.desk(role);
        tokio::spawn(async move {
            tokio::time::sleep(GIVEN_UP.as_duration()).await;
            desk.wake();
        });
    }

    /// Takes a session back, as far as it has come by now.
    pub(super) async fn revoke(&self, lease: &Lease) -> Result<Revocation, RevokeError> {
        let failed = |what: String| RevokeError { provider: NAME, what, source: None };
        let standing = async || {
            let standing = self.shared.store.slot(lease.id).await;
            standing.map_err(|source| RevokeError {
                provider: NAME,
                what: "could not read how the session stands".to_owned(),
                source: Some(source.into()),
            })
        };
        let Some(mut stands) = standing().await? else {
            // Forgotten, so it is gone by itself.
            return Ok(Revocation::RunsOut);
        };
        if stands.denied_in.is_none_or(|version| version > stands.written) {
            let written = self.desk(&stands.place.role).pass(PATIENCE).await;
            let Some(again) = standing().await? else { return Ok(Revocation::RunsOut) };
            stands = again;
            if stands.denied_in.is_none_or(|version| version > stands.written) {
                let why = written.err().unwrap_or_else(|| "it waits for its turn".to_owned());
                return Err(failed(format!(
                    "the deny document of {} is not written: {why}",
                    stands.place.role
                )));
            }
        }
        match stands.denied_in {
            Some(version) if version <= stands.proven => {
                Ok(Revocation::Verified { evidence: stands.evidence })
            }
            _ => Ok(Revocation::Applied),
        }
    }

    /// Where the role's document is asked for; its keeper is started if there is none.
    fn desk(&self, role: &str) -> Arc<Desk> {
        let mut desks = self.desks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(desk) = desks.get(role) {
            return Arc::clone(desk);
        }
        let desk = Arc::<Desk>::default();
        desks.insert(role.to_owned(), Arc::clone(&desk));
        match role.parse() {
            Ok(arn) => {
                let keeper = Keeper::new(Arc::clone(&self.shared), arn, Arc::clone(&desk));
                tokio::spawn(keeper.run(self.stop.clone()));
            }
            Err(problem) => tracing::error!(role, problem, "a stored role has no keeper"),
        }
        desk
    }
}

/// From when on AWS refuses a session that is asked for now, whatever is told of it.
fn gone_at(now: Timestamp, ttl: Ttl) -> Timestamp {
    now + LIFE + ttl + CLOCK_SKEW + CLOCK_SKEW
}
