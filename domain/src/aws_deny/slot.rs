//! Slots: names of sessions, as short as they can be.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::time::Ttl;

/// Legal in session tags (botocore, `sts/2011-06-15`, `tagValueType`), and without a meaning in IAM's patterns.
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Slots of one block.
const IN_BLOCK: u32 = 64;
/// Blocks of one role.
const BLOCKS: u32 = 64 * 64;

/// Names one session of a role: three characters out of 64. Used again only when nothing can mean the earlier one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(u32);

/// The slots that share their first two characters. They are given to the sessions of one task tree alone, so that one
/// pattern can stand for them once all of them are revoked.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Block(u32);

/// The text names no slot.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("not a slot: expected three of A-Z, a-z, 0-9, - and _")]
pub struct NotASlot;

impl Slot {
    /// The block it lies in.
    pub const fn block(self) -> Block {
        Block(self.0 / IN_BLOCK)
    }
}

impl Block {
    fn slots(self) -> impl Iterator<Item = Slot> {
        (0..IN_BLOCK).map(move |number| Slot(self.0 * IN_BLOCK + number))
    }
}

/// A session counts as living, for the allocator, only if it has so much left: another broker's clock may think it gone.
pub const LAST_CALL: Ttl = Ttl::minutes(1);

/// What of a role's slots is taken, as the allocator needs it.
#[derive(Clone, Debug, Default)]
pub struct Blocks {
    /// Blocks in which any slot is taken, by whichever tree.
    pub taken: BTreeSet<Block>,
    /// Blocks of the asking tree that hold a living session (see [`LAST_CALL`]), with the slots that are taken in them. A
    /// block whose sessions are all revoked gets no new one: a pattern may stand for the whole of it already.
    pub own: BTreeMap<Block, BTreeSet<Slot>>,
}

impl Blocks {
    /// A slot for one more session of the tree; none if every block is taken.
    pub fn allocate(&self, entropy: u32) -> Option<Slot> {
        let in_own = self.own.iter().find_map(|(block, taken)| {
            let free = |slot: &Slot| !taken.contains(slot);
            block.slots().find(free)
        });
        in_own.or_else(|| {
            let from = entropy % BLOCKS;
            let fresh = |number: u32| Block((from + number) % BLOCKS);
            let block = (0..BLOCKS).map(fresh).find(|block| !self.taken.contains(block))?;
            block.slots().next()
        })
    }
}

fn character(number: u32) -> char {
    char::from(ALPHABET[(number % 64) as usize])
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.block(), character(self.0))
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", character(self.0 / 64), character(self.0))
    }
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Block {
    type Err = NotASlot;

    fn from_str(text: &str) -> Result<Self, NotASlot> {
        format!("{text}A").parse().map(Slot::block)
    }
}

impl FromStr for Slot {
    type Err = NotASlot;

    fn from_str(text: &str) -> Result<Self, NotASlot> {
        let number = |byte: &u8| ALPHABET.iter().position(|known| known == byte);
        let [first, second, third] = text.as_bytes() else { return Err(NotASlot) };
        let [first, second, third] = [first, second, third].map(number);
        let (Some(first), Some(second), Some(third)) = (first, second, third) else { return Err(NotASlot) };
        u32::try_from((first * 64 + second) * 64 + third).map(Slot).map_err(|_| NotASlot)
    }
}
