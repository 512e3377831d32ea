//! The life of signing keys, as far as admins bring it about: a new one, one that is over, one that somebody else has.

pub mod consequences;

use dayfly_domain::audit::{Record, Stream};
use dayfly_domain::id::RequestId;
use dayfly_domain::key::{KeyFacts, KeyState, Why, Withheld};
use dayfly_domain::time::Timestamp;
use thiserror::Error;

use self::consequences::{Consequence, consequences};
use super::admin::Admin;
use super::{Broker, OperationError, Signing};
use crate::signer::{HolderError, KeyRow, Keyring, RefreshError, SignError, Use};
use crate::store::WithheldKey;

/// Why a key stays as it is.
#[derive(Debug, Error)]
pub enum NotDone {
    /// The key that would sign next was not published for long enough.
    #[error("the {} key that stands by may sign from {usable_from} on", .purpose.name())]
    NotReady {
        /// Its use.
        purpose: Use,
        /// From when on it may sign.
        usable_from: Timestamp,
    },
    /// It signs, or what it signed still lives.
    #[error("key {kid} is {state}")]
    StillNeeded {
        /// The key.
        kid: String,
        /// Its state.
        state: KeyState,
    },
    /// Its holder did not do it.
    #[error(transparent)]
    Holder(HolderError),
    /// The broker does not know yet who it is, so its keys are out of reach.
    #[error("the broker has no identity yet, and its keys cannot be reached without")]
    NoIdentity,
}

/// A key that was taken out.
#[derive(Debug)]
pub struct TakenOut {
    /// The key.
    pub key: KeyRow,
    /// What a person must do at its holder.
    pub by_hand: Vec<String>,
    /// What relying parties must do.
    pub consequences: Vec<Consequence>,
    /// The key that signs in its place.
    pub successor: Option<KeyRow>,
}

/// Every key with its state.
pub fn list(broker: &Broker) -> Result<Vec<KeyRow>, OperationError> {
    Ok(signing(broker)?.keyring.rows())
}

/// The key that stands by signs from now on, and a new one stands by. Making that one is what moves the other.
/// Returns the keys of the use.
pub async fn rotate(
    broker: &Broker,
    by: &Admin,
    request: RequestId,
    purpose: Use,
) -> Result<Vec<KeyRow>, OperationError> {
    let Signing { keyring, .. } = signing(broker)?;
    let _turn = keyring.turn.lock().await;
    // Another broker may have made one in this moment.
    keyring.refresh(&*broker.store).await.map_err(not_refreshed)?;
    let now = broker.clock.now();
    let ready = keyring.stands_by(purpose);
    if let Some(usable_from) =
        ready.as_ref().map(|row| row.facts.usable_from()).filter(|moment| *moment > now)
    {
        return Err(NotDone::NotReady { purpose, usable_from }.into());
    }
    // Before: no key comes to sign without a record.
    let mut rotating = record("key.rotating", by, request, now).with("use", purpose.name());
    if let Some(ready) = &ready {
        rotating = rotating.with("kid", &ready.facts.kid);
    }
    broker.store.write_records(vec![rotating]).await?;
    keyring.make(purpose, &*broker.store).await.map_err(not_refreshed)?;
    if let Some(made) = keyring.stands_by(purpose) {
        let announced = record("key.announced", by, request, broker.clock.now())
            .with("use", purpose.name())
            .with("kid", &made.facts.kid)
            .with("usable_from", made.facts.usable_from());
        broker.store.write_records(vec![announced]).await?;
    }
    Ok(keyring.rows_of(purpose))
}

/// Takes out a key that nobody needs, and destroys its private half where the holder lets the broker.
pub async fn retire(
    broker: &Broker,
    by: &Admin,
    request: RequestId,
    kid: &str,
) -> Result<TakenOut, OperationError> {
    let Signing { keyring, .. } = signing(broker)?;
    let _turn = keyring.turn.lock().await;
    let row = find(keyring, kid)?;
    match row.state {
        KeyState::Announced { .. } | KeyState::Retired => {}
        state @ (KeyState::Active { .. } | KeyState::Retiring { .. } | KeyState::Compromised) => {
            return Err(NotDone::StillNeeded { kid: row.facts.kid, state }.into());
        }
    }
    let now = broker.clock.now();
    let record = taken_out_record("key.retired", by, request, &row, now);
    take_out(broker, keyring, row, Why::Retired, record, now).await
}

/// Takes out a key that somebody else may have, at once. What follows from that goes on record, and is told.
pub async fn compromise(
    broker: &Broker,
    by: &Admin,
    request: RequestId,
    kid: &str,
    reason: &str,
    dry_run: bool,
) -> Result<TakenOut, OperationError> {
    let Signing { keyring, issuers } = signing(broker)?;
    let _turn = keyring.turn.lock().await;
    let row = find(keyring, kid)?;
    let now = broker.clock.now();
    let consequences = consequences(&broker.rules.load(), row.purpose, issuers, now);
    if dry_run {
        let successor = if row.state.is_active() {
            keyring.stands_by(row.purpose).filter(|next| next.facts.usable_from() <= now)
        } else {
            keyring.rows_of(row.purpose).into_iter().find(|one| one.state.is_active())
        };
        return Ok(TakenOut { key: row, by_hand: Vec::new(), consequences, successor });
    }
    let record = taken_out_record("key.compromised", by, request, &row, now)
        .with("reason", reason)
        .with("consequences", &consequences);
    let taken = take_out(broker, keyring, row, Why::Compromised, record, now).await?;
    tracing::warn!(
        kid = taken.key.facts.kid,
        purpose = taken.key.purpose.name(),
        "a compromised key was taken out"
    );
    Ok(TakenOut { consequences, ..taken })
}

/// Withholds first: whatever fails behind that, the key is out. Then its private half, then another that stands by.
async fn take_out(
    broker: &Broker,
    keyring: &Keyring,
    row: KeyRow,
    why: Why,
    record: Record,
    now: Timestamp,
) -> Result<TakenOut, OperationError> {
    let withheld = Withheld { at: now, why };
    let facts = KeyFacts { withheld: Some(withheld), ..row.facts.clone() };
    let key = WithheldKey { purpose: row.purpose.name().to_owned(), facts, withheld };
    broker.store.withhold_key(key, record).await?;
    let mut by_hand = Vec::new();
    // Read before its private half is gone, so that a holder that is away does not keep it in force here.
    if let Err(error) = keyring.refresh(&*broker.store).await {
        by_hand.push(format!("{}; the key is out all the same", dayfly_client::chain(&error)));
    }
    if let Some(held) = &row.held {
        match keyring.holder().destroy(held).await {
            Ok(told) => by_hand.extend(told),
            Err(error) => by_hand.push(dayfly_client::chain(&error)),
        }
    }
    let left = match keyring.stands_by(row.purpose) {
        Some(_) => keyring.refresh(&*broker.store).await,
        None => keyring.make(row.purpose, &*broker.store).await,
    };
    match left {
        Ok(()) => {}
        Err(RefreshError::Holder(HolderError::Refused { next, .. })) => by_hand.push(next),
        Err(error) => {
            by_hand.push(format!("look whether a key stands by: {}", dayfly_client::chain(&error)));
        }
    }
    let rows = keyring.rows_of(row.purpose);
    let now_is = rows.iter().find(|one| one.facts.kid == row.facts.kid).cloned();
    let successor = rows.into_iter().find(|one| one.state.is_active());
    Ok(TakenOut { key: now_is.unwrap_or(row), by_hand, consequences: Vec::new(), successor })
}

fn signing(broker: &Broker) -> Result<&Signing, OperationError> {
    broker.signing.get().ok_or_else(|| NotDone::NoIdentity.into())
}

fn find(keyring: &Keyring, kid: &str) -> Result<KeyRow, OperationError> {
    let unknown = || OperationError::Unknown { kind: "key", name: kid.chars().take(128).collect() };
    keyring.rows().into_iter().find(|row| row.facts.kid == kid).ok_or_else(unknown)
}

fn not_refreshed(error: RefreshError) -> OperationError {
    match error {
        RefreshError::Holder(error) => NotDone::Holder(error).into(),
        RefreshError::Store(error) => error.into(),
    }
}

fn record(event: &'static str, by: &Admin, request: RequestId, now: Timestamp) -> Record {
    Record::new(Stream::Admin, event, now).request(request).with("by", by.name())
}

fn taken_out_record(
    event: &'static str,
    by: &Admin,
    request: RequestId,
    row: &KeyRow,
    now: Timestamp,
) -> Record {
    record(event, by, request, now)
        .with("use", row.purpose.name())
        .with("kid", &row.facts.kid)
        .with("was", row.state.name())
}

impl From<NotDone> for OperationError {
    fn from(error: NotDone) -> Self {
        OperationError::Key(error)
    }
}

/// What the caller is told of a token that was not signed.
impl From<SignError> for OperationError {
    fn from(error: SignError) -> Self {
        OperationError::Unsigned(error)
    }
}
