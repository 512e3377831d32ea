//! A value that prints as dots and is zeroed when dropped.

use std::fmt;

use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Text that must not be seen: a token, a key, a password. It is neither cloned, serialised nor printed.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct Secret(String);

impl Secret {
    /// Takes the text into keeping.
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// Shows the text to the one who must use it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Compares in time that does not depend on where the two differ.
    pub fn equals(&self, other: &str) -> bool {
        self.0.as_bytes().ct_eq(other.as_bytes()).into()
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("···")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_prints_as_dots() {
        assert_eq!(format!("{:?}", Secret::new("hvs.x".into())), "···");
    }

    #[test]
    fn equality_is_by_content() {
        let secret = Secret::new("abc".into());
        assert!(secret.equals("abc") && !secret.equals("abd") && !secret.equals("abcd"));
    }
}
