//! What goes over NATS and over the pipes to the children: serde types in a versioned, checksummed envelope.
//!
//! ```text
//! "FARM" | u16 schema | u8 codec | u8 kind | bincode payload | u32 crc32c of all before it
//! ```
//! All integers are little-endian. bincode is not self-describing: enums are append-only, and any change to a
//! type raises [`SCHEMA`]. An unknown schema or a broken payload is an error that names itself; the receiver
//! terminates the message and reports it.

pub mod blob;
pub mod engine;
pub mod job;
pub mod media;
pub mod memory;
pub mod outcome;
pub mod pipe;
pub mod task;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Version of every payload type in this module.
pub const SCHEMA: u16 = 5;
/// Largest task, record or event, in bytes, envelope included.
pub const MAX_MESSAGE_BYTES: usize = 64 * 1024;

const MAGIC: &[u8; 4] = b"FARM";
const CODEC_BINCODE2: u8 = 1;
const HEADER_BYTES: usize = 8;
const CHECKSUM_BYTES: usize = 4;
/// A hostile length inside a payload cannot make the decoder allocate more than this.
const MAX_DECODED_BYTES: usize = 512 << 20;

/// A type with its own place in the envelope, so that one kind of message is never read as another.
pub trait Message: Serialize + DeserializeOwned {
    /// Unique over all messages; never re-used.
    const KIND: u8;
}

/// Why bytes are not the message they should be.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    #[error("not a farm message: {bytes} bytes without the envelope")]
    NotAnEnvelope { bytes: usize },
    #[error("schema {found} is not the schema {SCHEMA} of this build: run the same release everywhere")]
    UnknownSchema { found: u16 },
    #[error("unknown payload codec {found}")]
    UnknownCodec { found: u8 },
    #[error("message of kind {found} where kind {expected} belongs")]
    WrongKind { expected: u8, found: u8 },
    #[error("checksum mismatch: the payload was damaged on its way")]
    Damaged,
    #[error("cannot decode the payload")]
    Decode(#[source] bincode::error::DecodeError),
    #[error("{extra} bytes are left over after the payload")]
    TrailingBytes { extra: usize },
    #[error("cannot encode the payload")]
    Encode(#[source] bincode::error::EncodeError),
}

fn config() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<MAX_DECODED_BYTES>()
}

/// Wraps a message in the envelope.
pub fn encode<M: Message>(message: &M) -> Result<Vec<u8>, WireError> {
    let mut bytes = Vec::with_capacity(256);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&SCHEMA.to_le_bytes());
    bytes.push(CODEC_BINCODE2);
    bytes.push(M::KIND);
    bincode::serde::encode_into_std_write(message, &mut bytes, config()).map_err(WireError::Encode)?;
    let checksum = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    Ok(bytes)
}

/// Checks the envelope and decodes the message in it.
pub fn decode<M: Message>(bytes: &[u8]) -> Result<M, WireError> {
    let short = || WireError::NotAnEnvelope { bytes: bytes.len() };
    if bytes.len() < HEADER_BYTES + CHECKSUM_BYTES || &bytes[..4] != MAGIC {
        return Err(short());
    }
    let (body, tail) = bytes.split_at(bytes.len() - CHECKSUM_BYTES);
    let schema = u16::from_le_bytes([body[4], body[5]]);
    if schema != SCHEMA {
        return Err(WireError::UnknownSchema { found: schema });
    }
    if body[6] != CODEC_BINCODE2 {
        return Err(WireError::UnknownCodec { found: body[6] });
    }
    if crc32c::crc32c(body).to_le_bytes() != tail {
        return Err(WireError::Damaged);
    }
    if body[7] != M::KIND {
        return Err(WireError::WrongKind {
            expected: M::KIND,
            found: body[7],
        });
    }
    let payload = &body[HEADER_BYTES..];
    let (message, used) = bincode::serde::decode_from_slice(payload, config()).map_err(WireError::Decode)?;
    match payload.len() - used {
        0 => Ok(message),
        extra => Err(WireError::TrailingBytes { extra }),
    }
}

#[cfg(test)]
mod tests;
