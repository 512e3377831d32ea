//! Audit records: RFC 8785 JSON, each chained to the one before by SHA-256.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::id::RequestId;
use crate::time::Timestamp;

/// SHA-256 of the previous record's hash and this record's bytes.
pub type Hash = [u8; 32];

/// What stands before the first record of a chain.
pub const GENESIS: Hash = [0; 32];

/// Records of one purpose; each has a chain of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// Every allow and deny, with what it was made from.
    Decision,
    /// Every transition of a task or lease.
    Lease,
    /// Every act of an admin, and the broker's own starts and stops.
    Admin,
}

impl Stream {
    /// Every stream.
    pub const ALL: [Stream; 3] = [Stream::Decision, Stream::Lease, Stream::Admin];

    /// The stream's name in the database and on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Stream::Decision => "decision",
            Stream::Lease => "lease",
            Stream::Admin => "admin",
        }
    }
}

/// A record before it has a place in a chain. Holds no secret: its fields are ids, names and reasons.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// The chain it goes to.
    pub stream: Stream,
    /// What happened, for example `lease.active`.
    pub event: &'static str,
    /// When.
    pub at: Timestamp,
    /// The request that brought it about, if one did.
    pub request: Option<RequestId>,
    /// The rest, by name.
    pub fields: Map<String, Value>,
}

impl Record {
    /// A record without further fields.
    pub fn new(stream: Stream, event: &'static str, at: Timestamp) -> Self {
        Self { stream, event, at, request: None, fields: Map::new() }
    }

    /// Names the request.
    #[must_use]
    pub fn request(mut self, request: RequestId) -> Self {
        self.request = Some(request);
        self
    }

    /// Adds a field. Numbers are written as integers below 2^53, so that every JSON reader agrees on them.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Serialize) -> Self {
        let value = serde_json::to_value(value).expect("record fields are plain data");
        self.fields.insert(name.to_owned(), value);
        self
    }

    /// The bytes that are stored and hashed (RFC 8785).
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut whole = self.fields.clone();
        whole.insert("v".to_owned(), 1.into());
        whole.insert("stream".to_owned(), self.stream.as_str().into());
        whole.insert("event".to_owned(), self.event.into());
        whole.insert("at".to_owned(), self.at.to_string().into());
        if let Some(request) = self.request {
            whole.insert("request_id".to_owned(), request.to_string().into());
        }
        serde_json_canonicalizer::to_vec(&Value::Object(whole)).expect("record fields are plain data")
    }
}

/// `SHA-256(previous ‖ bytes)`.
pub fn chain(previous: &Hash, bytes: &[u8]) -> Hash {
    Sha256::new().chain_update(previous).chain_update(bytes).finalize().into()
}

/// Why a chain does not hold.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ChainFault {
    /// A number is missing or out of order.
    #[error("record {found} follows {after}: a record is missing or was moved")]
    Gap {
        /// Number of the last good record.
        after: u64,
        /// Number found next.
        found: u64,
    },
    /// The record names another predecessor.
    #[error("record {seq} does not follow from the one before it")]
    Link {
        /// Number of the record.
        seq: u64,
    },
    /// The bytes are not those that were hashed.
    #[error("record {seq} was changed after it was written")]
    Bytes {
        /// Number of the record.
        seq: u64,
    },
}

/// Walks one chain from its first record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verifier {
    /// Number of the last record that held; 0 before the first.
    pub seq: u64,
    /// Its hash: the head to hold against a later copy.
    pub head: Hash,
}

impl Default for Verifier {
    fn default() -> Self {
        Self { seq: 0, head: GENESIS }
    }
}

impl Verifier {
    /// Takes the next record, or says how the chain is broken.
    pub fn take(&mut self, seq: u64, previous: &[u8], hash: &[u8], bytes: &[u8]) -> Result<(), ChainFault> {
        if seq != self.seq + 1 {
            return Err(ChainFault::Gap { after: self.seq, found: seq });
        }
        if previous != self.head {
            return Err(ChainFault::Link { seq });
        }
        let expected = chain(&self.head, bytes);
        if hash != expected {
            return Err(ChainFault::Bytes { seq });
        }
        *self = Self { seq, head: expected };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> Vec<(u64, Hash, Hash, Vec<u8>)> {
        let mut head = GENESIS;
        (1..=3)
            .map(|seq| {
                let at = Timestamp::from_unix_millis(seq);
                let bytes = Record::new(Stream::Lease, "lease.active", at).with("seq", seq).to_bytes();
                let hash = chain(&head, &bytes);
                let row = (seq.unsigned_abs(), head, hash, bytes);
                head = hash;
                row
            })
            .collect()
    }

    fn verify(rows: &[(u64, Hash, Hash, Vec<u8>)]) -> Result<u64, ChainFault> {
        let mut verifier = Verifier::default();
        for (seq, previous, hash, bytes) in rows {
            verifier.take(*seq, previous, hash, bytes)?;
        }
        Ok(verifier.seq)
    }

    #[test]
    fn bytes_are_sorted_and_compact() {
        let record = Record::new(Stream::Admin, "broker.start", Timestamp::from_unix_millis(0))
            .with("b", 1)
            .with("a", "ä\n");
        let text = String::from_utf8(record.to_bytes()).expect("JSON is UTF-8");
        assert_eq!(
            text,
            r#"{"a":"ä\n","at":"1970-01-01T00:00:00.000Z","b":1,"event":"broker.start","stream":"admin","v":1}"#
        );
    }

    #[test]
    fn a_changed_missing_or_moved_record_is_found() {
        assert_eq!(verify(&three()), Ok(3));
        let mut changed = three();
        changed[1].3[5] ^= 1;
        assert_eq!(verify(&changed), Err(ChainFault::Bytes { seq: 2 }));
        let mut missing = three();
        missing.remove(1);
        assert_eq!(verify(&missing), Err(ChainFault::Gap { after: 1, found: 3 }));
        let mut rewritten = three();
        rewritten[2].1 = GENESIS;
        assert_eq!(verify(&rewritten), Err(ChainFault::Link { seq: 3 }));
    }
}
