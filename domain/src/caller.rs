//! Who asks, and how that was proven.

use serde::{Deserialize, Serialize};

use crate::spiffe::SpiffeId;
use crate::stage::Stage;
use crate::time::Timestamp;

/// A workload whose SPIFFE ID was proven for this request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// From the SVID, never from the request.
    pub spiffe_id: SpiffeId,
    /// What the database says this identity does.
    pub stage: Stage,
    /// The way the request came.
    pub via: Via,
    /// When the proof stops holding.
    pub proof_expires_at: Timestamp,
}

/// The way a request came, and with it the proof of who asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Via {
    /// The workload's own SVID: an X.509-SVID by mTLS, or at the token exchange a JWT-SVID that was taken once.
    Direct {
        /// Which SVID: the serial number of the leaf, hexadecimal; or `jwt-svid:` and the SHA-256 of what is signed in it,
        /// hexadecimal.
        serial: String,
    },
    /// A node agent's mTLS; the workload's JWT-SVID by signature and sole audience.
    Agent {
        /// The agent that spoke.
        node: SpiffeId,
    },
}

impl Via {
    /// The node agent that spoke, if one did.
    pub fn node(&self) -> Option<&SpiffeId> {
        match self {
            Via::Direct { .. } => None,
            Via::Agent { node } => Some(node),
        }
    }

    /// `direct` or `agent`.
    pub const fn name(&self) -> &'static str {
        match self {
            Via::Direct { .. } => "direct",
            Via::Agent { .. } => "agent",
        }
    }
}
