//! What a receipt is made of, as JSON.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Deserialize;
use spiffe::SpiffeId;

use super::{LONGEST_LIFE, ReceiptFault, SKEW};

/// A header of ours has these three and nothing else: `crit`, `jwk`, `jku` and `x5c` of a stranger are refused unread.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Header {
    pub(super) typ: String,
    pub(super) alg: String,
    pub(super) kid: String,
}

/// Claims that we do not know are left alone (RFC 7519 §4); those that we know have one form each.
#[derive(Deserialize)]
pub(super) struct Claims {
    pub(super) iss: String,
    pub(super) sub: String,
    /// Text: a list would name several guards, each of which could show it to the others.
    pub(super) aud: String,
    pub(super) exp: u64,
    pub(super) iat: u64,
    pub(super) jti: String,
    pub(super) txn: String,
    pub(super) task: String,
    pub(super) cnf: Confirmation,
    pub(super) act: Option<Actor>,
    pub(super) action: String,
    pub(super) artifact: Artifact,
    pub(super) scope: String,
    #[serde(default)]
    pub(super) dev: bool,
}

#[derive(Deserialize)]
pub(super) struct Confirmation {
    pub(super) spiffe_id: String,
}

#[derive(Deserialize)]
pub(super) struct Actor {
    pub(super) sub: String,
    pub(super) act: Option<Box<Actor>>,
}

#[derive(Deserialize)]
pub(super) struct Artifact {
    pub(super) name: String,
    pub(super) digest: Option<String>,
}

impl Claims {
    /// When it was issued and when it ends, if it holds now.
    pub(super) fn times(&self, now: SystemTime) -> Result<(SystemTime, SystemTime), ReceiptFault> {
        let life = self.exp.checked_sub(self.iat).filter(|life| *life > 0).ok_or(ReceiptFault::Claims)?;
        if life > LONGEST_LIFE.as_secs() {
            return Err(ReceiptFault::TooLongLived);
        }
        let at = |seconds| UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).ok_or(ReceiptFault::Claims);
        let (issued_at, expires_at) = (at(self.iat)?, at(self.exp)?);
        if now >= expires_at {
            return Err(ReceiptFault::Expired);
        }
        if issued_at > now + SKEW {
            return Err(ReceiptFault::NotYet);
        }
        Ok((issued_at, expires_at))
    }
}

pub(super) fn chain(act: Option<Actor>) -> Result<Vec<SpiffeId>, ReceiptFault> {
    let mut chain = Vec::new();
    let mut step = act;
    while let Some(actor) = step {
        chain.push(id(&actor.sub)?);
        step = actor.act.map(|above| *above);
    }
    Ok(chain)
}

pub(super) fn id(text: &str) -> Result<SpiffeId, ReceiptFault> {
    SpiffeId::new(text).map_err(|_| ReceiptFault::Claims)
}
