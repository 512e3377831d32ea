//! How sessions of AWS STS are ended: one deny document per role, a pure function of what is known of the role's sessions.
//!
//! AWS has no call that ends a session. It does evaluate the role's inline policies at each request, so a `Deny` that
//! names the session by a tag ends it (IAM User Guide, "Revoke IAM role temporary security credentials"). Each session
//! carries a [`Slot`] in such a tag. A [`State`] renders as the document that denies the revoked sessions and no living
//! one. A role's inline policies have 10,240 characters together, so [`Capacity`] says beforehand which session may be
//! opened: one that could not be ended exactly, whatever else ends, is not.

mod capacity;
mod document;
mod slot;
mod state;
mod when;

#[cfg(test)]
mod tests;

pub use self::capacity::Capacity;
pub use self::document::{DenyDocument, MOST_CHARACTERS, SLOT_TAG};
pub use self::slot::{Block, Blocks, LAST_CALL, NotASlot, Slot};
pub use self::state::{Session, State, Written};
pub use self::when::{NotAWhen, RevokeWhen};
