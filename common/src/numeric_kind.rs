//! Numeric kinds: machines of one kind round alike, so that a frame has the same bits on each of them.

use std::fmt;
use std::str::FromStr;

use crate::digest::Digest;
use crate::text::{InvalidText, serde_as_text};

/// Stands for a description of what a machine renders with: build, instruction set or GPU and driver, and
/// number type. Machines of equal kinds render equal bits under one memory plan; see
/// [`DoneRecord::numerics_fingerprint`](crate::wire::outcome::DoneRecord), which also names the plan where it
/// matters. The text form is `k` and eight hexadecimal digits, which is short enough for the name of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NumericKind(u32);
serde_as_text!(NumericKind);

impl NumericKind {
    /// Returns the kind of the machines with this description.
    pub fn of(description: &str) -> Self {
        let digest = Digest::of(description.as_bytes()).to_string();
        // The text form of a digest has 64 hexadecimal digits.
        Self(u32::from_str_radix(&digest[..8], 16).unwrap_or_default())
    }
}

impl fmt::Display for NumericKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "k{:08x}", self.0)
    }
}

impl FromStr for NumericKind {
    type Err = InvalidText;

    fn from_str(text: &str) -> Result<Self, InvalidText> {
        let is_digit = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
        text.strip_prefix('k')
            .filter(|digits| digits.len() == 8 && digits.chars().all(is_digit))
            .and_then(|digits| u32::from_str_radix(digits, 16).ok())
            .map(Self)
            .ok_or_else(|| InvalidText::new("numeric kind (k and eight hexadecimal digits)", text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptions_have_kinds_of_their_own_that_are_read_from_their_text() {
        let (one, other) = (NumericKind::of("cpu/f32"), NumericKind::of("cpu/f16"));
        assert_ne!(one, other);
        for kind in [one, other] {
            assert_eq!(kind.to_string().parse::<NumericKind>().unwrap(), kind);
        }
        for text in ["", "k", "k123", "12345678", "k1234567G", "k+1234567"] {
            assert!(text.parse::<NumericKind>().is_err(), "{text}");
        }
    }
}
