//! Audit records on their way into a writer's chains.

use dayfly_domain::audit::{GENESIS, Hash, Record, Stream, chain};
use dayfly_domain::time::Timestamp;

/// How a transaction keeps its records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Care {
    /// Without records, nothing is committed.
    Recorded,
    /// Something must be taken back though its records cannot be written: they are counted instead.
    Counted,
}

/// A record as it will be hashed.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) stream: Stream,
    pub(super) at: Timestamp,
    pub(super) bytes: Vec<u8>,
}

impl Line {
    pub(super) fn new(record: &Record) -> Self {
        Self { stream: record.stream, at: record.at, bytes: record.to_bytes() }
    }

    /// Says that so many records were lost before it.
    pub(super) fn confession(lost: i64, at: Timestamp) -> Self {
        Self::new(&Record::new(Stream::Admin, "audit.records_lost", at).with("count", lost))
    }
}

/// The last record of a chain.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    pub(super) seq: i64,
    pub(super) hash: Hash,
}

/// Where the chains of one writer stand, by stream.
pub(super) type Heads = [Head; Stream::ALL.len()];

impl Head {
    /// What stands before the first record.
    pub(super) const GENESIS: Self = Self { seq: 0, hash: GENESIS };
}

/// A record with its place in its chain.
pub(super) struct Link<'a> {
    pub(super) writer: &'a str,
    pub(super) line: &'a Line,
    pub(super) seq: i64,
    pub(super) prev_hash: Hash,
    pub(super) hash: Hash,
}

impl<'a> Link<'a> {
    /// Gives every line its place after the heads, which move on.
    pub(super) fn all(heads: &mut Heads, writer: &'a str, lines: &'a [Line]) -> Vec<Self> {
        lines.iter().map(|line| Self::after(&mut heads[line.stream as usize], writer, line)).collect()
    }

    fn after(head: &mut Head, writer: &'a str, line: &'a Line) -> Self {
        let prev_hash = head.hash;
        *head = Head { seq: head.seq + 1, hash: chain(&prev_hash, &line.bytes) };
        Self { writer, line, seq: head.seq, prev_hash, hash: head.hash }
    }
}
