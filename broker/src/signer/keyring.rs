//! Which key signs now, and which are told: worked out from what the holder holds, less what was withheld.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use dayfly_domain::key::{self, KeyFacts, KeyState};
use dayfly_domain::time::Timestamp;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{HeldKey, HolderError, KeyHolder, SignError, Signer, Use};
use crate::clock::Clock;
use crate::store::{Store, StoreError, WithheldKey};

/// How often keys and what is withheld of them are read anew. Below `MARGIN` of a key's life, which allows for it.
pub const REFRESH: Duration = Duration::from_secs(10);

/// The broker's keys.
pub struct Keyring {
    holder: Arc<dyn KeyHolder>,
    clock: Clock,
    keys: ArcSwap<Vec<Known>>,
    /// Held by who changes something, so that each act sees what the one before it did.
    pub(crate) turn: tokio::sync::Mutex<()>,
}

/// One key: what is known of its life, and the key itself unless it is gone.
struct Known {
    purpose: Use,
    facts: KeyFacts,
    held: Option<HeldKey>,
}

/// One key as admins are told of it.
#[derive(Clone, Debug)]
pub struct KeyRow {
    /// What it is for.
    pub purpose: Use,
    /// What its life is worked out from.
    pub facts: KeyFacts,
    /// Where it stands.
    pub state: KeyState,
    /// The key, unless its holder has it no more.
    pub held: Option<HeldKey>,
}

impl Keyring {
    /// Keys that were read, less what was withheld.
    pub fn new(holder: Arc<dyn KeyHolder>, held: Vec<HeldKey>, withheld: &[WithheldKey]) -> Self {
        let (clock, turn) = (Clock::default(), tokio::sync::Mutex::default());
        Self { holder, clock, keys: ArcSwap::from_pointee(merge(held, withheld)), turn }
    }

    /// Reads the keys from their holder. One that is away is no error: nothing is signed until it is reached.
    ///
    /// # Errors
    /// The store does not say what is withheld.
    pub async fn start(holder: Arc<dyn KeyHolder>, store: &dyn Store) -> Result<Self, StoreError> {
        let withheld = store.withheld_keys().await?;
        let held = match holder.keys().await {
            Ok(held) => held,
            Err(error) => {
                tracing::error!(
                    error = dayfly_client::chain(&error),
                    "the signing keys could not be read: nothing is signed until they can"
                );
                Vec::new()
            }
        };
        Ok(Self::new(holder, held, &withheld))
    }

    /// What holds the private halves.
    pub fn holder(&self) -> &dyn KeyHolder {
        &*self.holder
    }

    /// Reads anew what the holder holds and what is withheld. What cannot be read stays as it was.
    ///
    /// # Errors
    /// The holder or the store did not answer.
    pub async fn refresh(&self, store: &dyn Store) -> Result<(), RefreshError> {
        let withheld = store.withheld_keys().await?;
        let held = match self.holder.keys().await {
            Ok(held) => held,
            Err(error) => {
                // What was withheld meanwhile is, whether its holder is there or not.
                let known = self.keys.load();
                let held = known.iter().filter_map(|known| known.held.clone()).collect();
                self.keys.store(Arc::new(merge(held, &withheld)));
                return Err(error.into());
            }
        };
        self.keys.store(Arc::new(merge(held, &withheld)));
        Ok(())
    }

    /// Keeps the keys as their holder and the store have them, and makes one that stands by where there is none. Ends when
    /// told to stop.
    pub async fn keep(self: Arc<Self>, store: Arc<dyn Store>, stop: CancellationToken) {
        let mut signing = Vec::new();
        let mut failing = false;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(REFRESH) => {}
            }
            let turn = self.turn.lock().await;
            match self.tend(&*store).await {
                Ok(()) => failing = false,
                // Said once, not each time: it lasts as long as the outage.
                Err(error) if !std::mem::replace(&mut failing, true) => tracing::warn!(
                    error = dayfly_client::chain(&error),
                    "the signing keys could not be read anew; those at hand are used on"
                ),
                Err(_) => {}
            }
            drop(turn);
            let now: Vec<String> =
                self.rows().into_iter().filter(is_active).map(|row| row.facts.kid).collect();
            if now != signing {
                tracing::info!(kids = ?now, "the keys that sign");
                signing = now;
            }
        }
    }

    async fn tend(&self, store: &dyn Store) -> Result<(), RefreshError> {
        self.refresh(store).await?;
        if !self.holder.makes_unasked() {
            return Ok(());
        }
        for purpose in Use::ALL.into_iter().filter(|purpose| self.stands_by(*purpose).is_none()) {
            self.make(purpose, store).await?;
            tracing::info!(purpose = purpose.name(), "a key was made that stands by");
        }
        Ok(())
    }

    /// Makes one more key, and reads it.
    pub(crate) async fn make(&self, purpose: Use, store: &dyn Store) -> Result<(), RefreshError> {
        // Never older than one that is there, whatever the clock says: it would be taken for its predecessor.
        let newest = self.rows_of(purpose).iter().map(|row| row.facts.announced_at).max();
        let after = newest
            .map_or(Timestamp::from_unix_millis(0), |at| Timestamp::from_unix_seconds(at.unix_seconds() + 1));
        self.holder.make(purpose, self.clock.now().max(after)).await?;
        self.refresh(store).await
    }

    /// The newest announced key of a use.
    pub(crate) fn stands_by(&self, purpose: Use) -> Option<KeyRow> {
        let announced = |row: &KeyRow| matches!(row.state, KeyState::Announced { .. });
        self.rows_of(purpose).into_iter().filter(announced).max_by_key(|row| row.facts.announced_at)
    }

    /// Every key with its state: by use, oldest first.
    pub fn rows(&self) -> Vec<KeyRow> {
        Use::ALL.into_iter().flat_map(|purpose| self.rows_of(purpose)).collect()
    }

    /// Every key of a use with its state, oldest first.
    pub fn rows_of(&self, purpose: Use) -> Vec<KeyRow> {
        let known = self.keys.load();
        let mut known: Vec<&Known> = known.iter().filter(|known| known.purpose == purpose).collect();
        known.sort_by_key(|known| (known.facts.announced_at, &known.facts.kid));
        let facts: Vec<KeyFacts> = known.iter().map(|known| known.facts.clone()).collect();
        let states = key::states(&facts, purpose.longest_life(), self.clock.now());
        let row = |(known, state): (&Known, KeyState)| KeyRow {
            purpose,
            facts: known.facts.clone(),
            state,
            held: known.held.clone(),
        };
        known.into_iter().zip(states).map(row).collect()
    }

    /// The key that signs.
    fn active(&self, purpose: Use) -> Result<HeldKey, SignError> {
        let rows = self.rows_of(purpose);
        if let Some(held) = rows.iter().find(|row| row.state.is_active()).and_then(|row| row.held.clone()) {
            return Ok(held);
        }
        let next = rows.iter().filter_map(|row| match row.state {
            KeyState::Announced { usable_from } => Some(usable_from),
            _ => None,
        });
        Err(SignError::NoKey { purpose, usable_from: next.min() })
    }
}

fn is_active(row: &KeyRow) -> bool {
    row.state.is_active()
}

/// Keys could not be read, made or taken out.
#[derive(Debug, thiserror::Error)]
pub enum RefreshError {
    /// Their holder.
    #[error(transparent)]
    Holder(#[from] HolderError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A row takes a key out, or tells of one that is gone. It brings none.
fn merge(held: Vec<HeldKey>, withheld: &[WithheldKey]) -> Vec<Known> {
    let mut known: Vec<Known> = held
        .into_iter()
        .map(|key| Known {
            purpose: key.purpose,
            facts: KeyFacts {
                kid: key.kid.clone(),
                announced_at: key.announced_at,
                first: key.first,
                withheld: None,
            },
            held: Some(key),
        })
        .collect();
    for row in withheld {
        let Some(purpose) = Use::from_name(&row.purpose) else { continue };
        match known.iter_mut().find(|known| known.purpose == purpose && known.facts.kid == row.facts.kid) {
            Some(there) => there.facts.withheld = row.facts.withheld,
            None => known.push(Known { purpose, facts: row.facts.clone(), held: None }),
        }
    }
    known
}

#[async_trait]
impl Signer for Keyring {
    async fn sign(&self, purpose: Use, typ: &str, claims: &Value) -> Result<String, SignError> {
        if typ != purpose.typ() {
            return Err(SignError::Kind { purpose, asked: typ.chars().take(32).collect() });
        }
        let key = self.active(purpose)?;
        let claims = serde_json::to_vec(claims)?;
        // Room for the longest signature, so that the token is not copied about while it grows.
        let mut token = String::with_capacity(key.header.len() + claims.len() * 4 / 3 + 350);
        token.push_str(&key.header);
        URL_SAFE_NO_PAD.encode_string(&claims, &mut token);
        let signature = self.holder.sign(&key, token.as_bytes()).await;
        let signature = signature.map_err(|source| SignError::Holder { purpose, source })?;
        // The holder may have taken its time.
        let published = |row: &KeyRow| row.facts.kid == key.kid && row.state.is_published();
        if !self.rows_of(purpose).iter().any(published) {
            return Err(SignError::TakenOut { purpose });
        }
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        Ok(token)
    }

    fn jwks(&self, purpose: Use) -> Value {
        let rows = self.rows_of(purpose);
        let (active, others): (Vec<&KeyRow>, Vec<&KeyRow>) =
            rows.iter().filter(|row| row.state.is_published()).partition(|row| is_active(row));
        let keys = active.into_iter().chain(others).filter_map(|row| row.held.as_ref());
        json!({"keys": keys.map(|key| &key.jwk).collect::<Vec<_>>()})
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Keyring");
        for row in self.rows().iter().filter(|row| is_active(row)) {
            shown.field(row.purpose.name(), &row.facts.kid);
        }
        shown.finish()
    }
}

#[cfg(test)]
#[path = "keyring_tests.rs"]
mod tests;
