//! How many sessions a role may have so that each of them can be ended.

use super::document::{FIXED_CHARACTERS, MOST_CHARACTERS};

/// Characters of one entry: three of the slot or of a block's pattern, two quotes, a comma.
pub(super) const ENTRY: usize = 6;

/// How many entries a deny document may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity(u32);

impl Capacity {
    /// What fits into the inline policies of a role that has no other.
    #[expect(clippy::cast_possible_truncation, reason = "some 1,600")]
    pub const OF_A_ROLE: Capacity = Capacity(((MOST_CHARACTERS - FIXED_CHARACTERS) / ENTRY) as u32);

    /// So many entries.
    pub const fn entries(entries: u32) -> Self {
        Self(entries)
    }

    /// Whether one more session may be opened on a role that has this many that could still be used, so many of them
    /// young, and still leave room for `spare` others.
    ///
    /// A session is old once the latest moment it can have been issued at is behind us by the clocks' skew. With a watermark
    /// behind every old session the document has one entry for each living old one and at most one for each young one;
    /// without a watermark it has one for each revoked one. The smaller of the two is at most half of their sum, which is
    /// the number of old ones and twice that of the young. Time makes young ones old and takes old ones away, so what was
    /// admitted fits for ever, whichever of them are revoked.
    pub const fn admits(self, sessions: u32, young: u32, spare: u32) -> bool {
        let with_it = sessions as u64 + young as u64 + 2 * (1 + spare as u64);
        with_it <= 2 * self.0 as u64
    }

    /// The entries.
    pub const fn get(self) -> u32 {
        self.0
    }
}
