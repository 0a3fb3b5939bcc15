//! Signatures of done records. The server's permissions do not tie a record to the worker that wrote it, as every
//! worker may write one for every chunk; the worker's key does. [`DoneLog::commit`](super::done::DoneLog::commit)
//! signs a record with the key of its connection, and whoever reads a record learns whose key signed it. Whether that
//! key is the right one is the coordinator's decision.
//!
//! A signature covers the subject and the payload of its message, so it fits no other chunk. Key and signature stand in
//! headers of the message.

use std::fmt;
use std::str::FromStr;

use async_nats::HeaderMap;
use data_encoding::BASE64URL_NOPAD;
use nkeys::{KeyPair, KeyPairType};

use crate::text::InvalidText;

/// Header with the public key of the process that sent a message.
pub const KEY_HEADER: &str = "Latentfarm-Key";
/// Header with the signature of a message, by the key in [`KEY_HEADER`].
pub const SIGNATURE_HEADER: &str = "Latentfarm-Signature";

/// What is signed begins with this, so that a signature of anything else, as of a challenge of the server, never fits.
const PURPOSE: &str = "done record of latentfarm, version 1";
/// The text form of a public key: a letter for the kind, then base32.
const KEY_CHARS: usize = 56;
/// The text form of a signature: 64 bytes.
const SIGNATURE_CHARS: usize = 86;

/// The public half of a user's nkey, such as `UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey(String);

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for PublicKey {
    type Err = InvalidText;

    fn from_str(text: &str) -> Result<Self, InvalidText> {
        let pair = (text.len() == KEY_CHARS).then(|| KeyPair::from_public_key(text));
        let is_user = |pair: &KeyPair| pair.key_pair_type() == KeyPairType::User;
        match pair {
            Some(Ok(pair)) if is_user(&pair) => Ok(Self(text.to_owned())),
            _ => Err(InvalidText::new("public key of a user", text)),
        }
    }
}

/// The key with which a process signs.
pub(super) struct Signer {
    pair: KeyPair,
    key: PublicKey,
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer")
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

impl Signer {
    /// Takes the key of an nkey seed.
    pub(super) fn from_seed(seed: &str) -> Result<Self, nkeys::error::Error> {
        let pair = KeyPair::from_seed(seed)?;
        let key = PublicKey(pair.public_key());
        Ok(Self { pair, key })
    }

    pub(super) fn key(&self) -> &PublicKey {
        &self.key
    }

    /// Returns the headers of a signed message.
    pub(super) fn sign(&self, subject: &str, payload: &[u8]) -> Result<HeaderMap, nkeys::error::Error> {
        let signature = self.pair.sign(&signed_bytes(subject, payload))?;
        let mut headers = HeaderMap::new();
        headers.insert(KEY_HEADER, self.key.0.as_str());
        headers.insert(SIGNATURE_HEADER, BASE64URL_NOPAD.encode(&signature));
        Ok(headers)
    }
}

/// Who signed a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signature {
    /// Nobody: the message has no signature.
    Missing,
    /// The owner of this key: the signature fits the message and the key.
    By(PublicKey),
    /// Somebody, but the signature or the key is damaged, or does not fit the message. The reason is one clause.
    Invalid(&'static str),
}

impl Signature {
    /// Checks the signature of a message.
    pub(super) fn of(subject: &str, payload: &[u8], headers: &HeaderMap) -> Self {
        let (key, signature) = match (headers.get(KEY_HEADER), headers.get(SIGNATURE_HEADER)) {
            (None, None) => return Self::Missing,
            (Some(key), Some(signature)) => (key.as_str(), signature.as_str()),
            (Some(_), None) => return Self::Invalid("it names a key and has no signature"),
            (None, Some(_)) => return Self::Invalid("its signature names no key"),
        };
        let Ok(key) = key.parse::<PublicKey>() else {
            return Self::Invalid("the key that it names is none");
        };
        let is_whole = signature.len() == SIGNATURE_CHARS;
        let signature = is_whole.then(|| BASE64URL_NOPAD.decode(signature.as_bytes()));
        let (Some(Ok(signature)), Ok(pair)) = (signature, KeyPair::from_public_key(&key.0)) else {
            return Self::Invalid("its signature is damaged");
        };
        match pair.verify(&signed_bytes(subject, payload), &signature) {
            Ok(()) => Self::By(key),
            Err(_) => Self::Invalid("its signature does not fit"),
        }
    }
}

/// A subject has no control characters, so the parts cannot be taken for each other.
fn signed_bytes(subject: &str, payload: &[u8]) -> Vec<u8> {
    [PURPOSE.as_bytes(), b"\n", subject.as_bytes(), b"\n", payload].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signer() -> Signer {
        Signer::from_seed(&KeyPair::new_user().seed().unwrap()).unwrap()
    }

    #[test]
    fn a_signature_names_its_key_and_fits_one_message() {
        let signer = signer();
        let headers = signer.sign("farm.done.a.r00001", b"a record").unwrap();
        let of = |subject: &str, payload: &[u8]| Signature::of(subject, payload, &headers);
        assert_eq!(
            of("farm.done.a.r00001", b"a record"),
            Signature::By(signer.key().clone())
        );
        let other = Signature::Invalid("its signature does not fit");
        assert_eq!(of("farm.done.a.r00002", b"a record"), other);
        assert_eq!(of("farm.done.a.r00001", b"another"), other);
        assert_eq!(
            Signature::of("farm.done.a.r00001", b"a record", &HeaderMap::new()),
            Signature::Missing
        );
        assert!(!format!("{signer:?}").contains("SU"));
    }

    #[test]
    fn headers_of_any_content_are_none_of_a_signature() {
        let (own, other) = (signer(), signer());
        let good = own.sign("s", b"p").unwrap();
        let signature = good.get(SIGNATURE_HEADER).unwrap().as_str().to_owned();
        let flipped = {
            let first = if signature.starts_with('A') { 'B' } else { 'A' };
            format!("{first}{}", &signature[1..])
        };
        let account = KeyPair::new_account().public_key();
        let (key, other) = (own.key().to_string(), other.key().to_string());
        for (key, signature) in [
            (Some(key.as_str()), Some(flipped.as_str())),
            (Some(&other), Some(&signature)),
            (Some(&key), None),
            (None, Some(&signature)),
            (Some(&account), Some(&signature)),
            (Some(""), Some(&signature)),
            (Some(&key), Some("")),
            (Some(&key), Some(&"A".repeat(60_000))),
            (Some(&"U".repeat(60_000)), Some(&signature)),
            (Some("ÄÖÜ"), Some("ÄÖÜ")),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(key) = key {
                headers.insert(KEY_HEADER, key);
            }
            if let Some(signature) = signature {
                headers.insert(SIGNATURE_HEADER, signature);
            }
            let found = Signature::of("s", b"p", &headers);
            assert!(matches!(found, Signature::Invalid(_)), "{found:?}");
        }
    }
}
