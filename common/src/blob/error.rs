//! Why a blob is not there, or is not what its name says.

use crate::digest::Digest;
use crate::error::FileError;
use crate::nats::direct::DirectError;
use crate::wire::blob::BlobRef;

/// Why a blob could not be stored or fetched.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    #[error("`{url}` is not a blob store: `file:///absolute/path` or `nats://bucket`")]
    Url { url: String },
    #[error("the blob store `{url}` needs a NATS connection")]
    NoClient { url: String },
    #[error("blob {digest} is not in {place}")]
    Missing { digest: Digest, place: String },
    #[error("blob {digest} in {place} is damaged: it has {found_bytes} bytes and digest {found}")]
    Damaged {
        digest: Digest,
        place: String,
        found: Digest,
        found_bytes: u64,
    },
    #[error("blob {digest} in {place} has {found_bytes} bytes instead of {bytes}")]
    WrongSize {
        digest: Digest,
        place: String,
        bytes: u64,
        found_bytes: u64,
    },
    #[error(transparent)]
    Files(#[from] FileError),
    #[error("cannot store blob {digest} in {place}")]
    Put {
        digest: Digest,
        place: String,
        #[source]
        source: async_nats::Error,
    },
    #[error("cannot look for blob {digest} in {place}")]
    Look {
        digest: Digest,
        place: String,
        #[source]
        source: async_nats::Error,
    },
    #[error("cannot read blob {digest} from {place}")]
    Read {
        digest: Digest,
        place: String,
        #[source]
        source: Box<DirectError>,
    },
    #[error("a file operation was cut short")]
    CutShort(#[source] tokio::task::JoinError),
}

/// Compares what was read with what was asked for.
pub(super) fn compare(blob: &BlobRef, found: Digest, found_bytes: u64, place: &str) -> Result<(), BlobError> {
    if found == blob.digest && found_bytes == blob.bytes {
        return Ok(());
    }
    Err(BlobError::Damaged {
        digest: blob.digest,
        place: place.to_owned(),
        found,
        found_bytes,
    })
}
