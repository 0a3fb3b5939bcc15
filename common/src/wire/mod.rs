//! The messages that go over NATS and over the pipes to child processes: serde types in a versioned,
//! checksummed envelope.
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
pub mod weights;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Version of every payload type in this module.
pub const SCHEMA: u16 = 18;
/// Largest task, record or event, in bytes, envelope included.
pub const MAX_MESSAGE_BYTES: usize = 64 * 1024;

const MAGIC: &[u8; 4] = b"FARM";
const CODEC_BINCODE2: u8 = 1;
const HEADER_BYTES: usize = 8;
const CHECKSUM_BYTES: usize = 4;
/// The most bytes that the values in a payload may take.
const MAX_DECODED_BYTES: usize = 512 << 20;

/// A type that can be sent in an envelope. The envelope holds its kind, so that no message is decoded as
/// another type.
pub trait Message: Serialize + DeserializeOwned {
    /// The number of this type in the envelope. It is unique over all messages and never used again for
    /// another one.
    const KIND: u8;
}

/// Why a message cannot be encoded, or bytes cannot be decoded.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The bytes do not begin and end as an envelope does.
    #[error("not a farm message: {bytes} bytes without the envelope")]
    NotAnEnvelope {
        /// Number of bytes that were received.
        bytes: usize,
    },
    /// The sender is of another release.
    #[error("schema {found} is not the schema {SCHEMA} of this build: run the same release everywhere")]
    UnknownSchema {
        /// Schema that the envelope states.
        found: u16,
    },
    /// The sender is of another release, which encodes payloads in another way.
    #[error("unknown payload codec {found}")]
    UnknownCodec {
        /// Number of the codec in the envelope.
        found: u8,
    },
    /// The message is of another type.
    #[error("a message of kind {found} was received instead of one of kind {expected}")]
    WrongKind {
        /// [`Message::KIND`] of the type to decode.
        expected: u8,
        /// Kind that the envelope states.
        found: u8,
    },
    /// The bytes changed on their way.
    #[error("checksum mismatch: the payload was damaged on its way")]
    Damaged,
    /// The payload is not an encoding of the type.
    #[error("cannot decode the payload")]
    Decode(#[source] bincode::error::DecodeError),
    /// The payload is longer than an encoding of the type.
    #[error("{extra} bytes are left over after the payload")]
    TrailingBytes {
        /// Number of bytes after the payload.
        extra: usize,
    },
    /// The message cannot be encoded.
    #[error("cannot encode the payload")]
    Encode(#[source] bincode::error::EncodeError),
}

/// Encodings are those of every release of this schema; `LIMIT` is the most bytes that the values may take.
fn config<const LIMIT: usize>() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<LIMIT>()
}

/// Decodes a payload and returns the number of bytes that were used. A value takes up to eight times its
/// encoding; a length that claims more than that is wrong, and is refused before it is allocated.
fn decode_payload<M: Message>(payload: &[u8]) -> Result<(M, usize), bincode::error::DecodeError> {
    use bincode::serde::decode_from_slice as decode;
    match payload.len() {
        0..0x1000 => decode(payload, config::<0x8000>()),
        0x1000..0x1_0000 => decode(payload, config::<0x8_0000>()),
        0x1_0000..0x10_0000 => decode(payload, config::<0x80_0000>()),
        0x10_0000..0x100_0000 => decode(payload, config::<0x800_0000>()),
        _ => decode(payload, config::<MAX_DECODED_BYTES>()),
    }
}

/// Wraps a message in the envelope.
pub fn encode<M: Message>(message: &M) -> Result<Vec<u8>, WireError> {
    let mut bytes = Vec::with_capacity(256);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&SCHEMA.to_le_bytes());
    bytes.push(CODEC_BINCODE2);
    bytes.push(M::KIND);
    bincode::serde::encode_into_std_write(message, &mut bytes, config::<MAX_DECODED_BYTES>())
        .map_err(WireError::Encode)?;
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
    let (message, used) = decode_payload(payload).map_err(WireError::Decode)?;
    match payload.len() - used {
        0 => Ok(message),
        extra => Err(WireError::TrailingBytes { extra }),
    }
}

#[cfg(test)]
mod tests;
