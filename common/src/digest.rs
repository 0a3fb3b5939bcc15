//! SHA-256 digests, which name blobs and everything else that is identified by its content.

use std::fmt;
use std::io::{self, BufReader, Read};
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::Digest as _;

use crate::text::InvalidText;

/// A SHA-256 digest, whose text form is 64 lowercase hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Computes the digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(sha2::Sha256::digest(bytes).into())
    }

    /// Computes the digest of everything that `reader` yields, and returns it with the number of bytes read.
    pub fn of_reader(reader: impl Read) -> io::Result<(Self, u64)> {
        let mut hasher = sha2::Sha256::new();
        let bytes = io::copy(&mut BufReader::with_capacity(1 << 16, reader), &mut hasher)?;
        Ok((Self(hasher.finalize().into()), bytes))
    }

    /// Computes the digest of a file, and returns it with the file's size in bytes.
    pub fn of_file(path: &Path) -> io::Result<(Self, u64)> {
        Self::of_reader(std::fs::File::open(path)?)
    }

    /// Returns the 32 bytes of the digest.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{self}")
    }
}

impl FromStr for Digest {
    type Err = InvalidText;

    fn from_str(text: &str) -> Result<Self, InvalidText> {
        let invalid = |_| InvalidText::new("SHA-256 digest (64 hexadecimal digits)", text);
        let mut bytes = [0_u8; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(invalid)?;
        Ok(Self(bytes))
    }
}

/// Computes the digest of content that arrives in pieces.
#[derive(Default)]
pub struct DigestWriter {
    hasher: sha2::Sha256,
    bytes: u64,
}

impl DigestWriter {
    /// Begins a digest of no content yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the next piece of the content.
    pub fn update(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
    }

    /// Returns the length of all pieces so far, in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns the digest of all pieces, and their length in bytes.
    pub fn finish(self) -> (Digest, u64) {
        (Digest(self.hasher.finalize().into()), self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_round_trips() {
        let digest = Digest::of(b"abc");
        assert_eq!(
            digest.to_string(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
        assert!("ba78".parse::<Digest>().is_err());
    }

    #[test]
    fn pieces_give_the_same_digest() {
        assert_eq!(Digest::of_reader(&b"abc"[..]).unwrap(), (Digest::of(b"abc"), 3));
    }
}
