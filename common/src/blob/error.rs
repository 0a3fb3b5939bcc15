//! The errors of the blob store, and the check of content against the digest that names it.

use crate::digest::Digest;
use crate::error::FileError;
use crate::wire::blob::BlobRef;

/// A blob could not be stored or fetched.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// The URL names no blob store.
    #[error("`{url}` is not a blob store: use `file:///absolute/path` or `nats://bucket`")]
    Url {
        /// The URL as it was given.
        url: String,
    },
    /// The URL names an object store, and the caller has no NATS connection.
    #[error("the blob store `{url}` needs a NATS connection")]
    NoClient {
        /// The URL as it was given.
        url: String,
    },
    /// The store does not have the blob.
    #[error("blob {digest} is not in {place}")]
    Missing {
        /// The digest under which the blob is stored.
        digest: Digest,
        /// The directory or bucket of the store.
        place: String,
    },
    /// The stored content does not have the digest that it is stored under.
    #[error("blob {digest} in {place} is damaged: it has {found_bytes} bytes and digest {found}")]
    Damaged {
        /// The digest of the blob that was requested.
        digest: Digest,
        /// The directory or bucket of the store, or the file that changed while it was stored.
        place: String,
        /// The digest that the content has.
        found: Digest,
        /// The size that the content has, in bytes.
        found_bytes: u64,
    },
    /// The stored content does not have the requested size; it was not read.
    #[error("blob {digest} in {place} has {found_bytes} bytes instead of {bytes}")]
    WrongSize {
        /// The digest under which the blob is stored.
        digest: Digest,
        /// The directory or bucket of the store.
        place: String,
        /// The size that was requested, in bytes.
        bytes: u64,
        /// The size that the content has, in bytes.
        found_bytes: u64,
    },
    /// An operation on a local file failed.
    #[error(transparent)]
    Files(#[from] FileError),
    /// A request to the NATS server failed.
    #[error("cannot {action} blob {digest} in {place}")]
    Nats {
        /// The action that failed: `store`, `look up` or `read`.
        action: &'static str,
        /// The digest under which the blob is stored.
        digest: Digest,
        /// The bucket in which the blob is stored.
        place: String,
        /// The error that the NATS client returned.
        #[source]
        source: async_nats::Error,
    },
    /// The task of a file operation panicked or was cancelled.
    #[error("a file operation was interrupted")]
    Interrupted(#[source] tokio::task::JoinError),
}

impl BlobError {
    /// Whether the store did not answer or is full, so that the same request may succeed later.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Nats { .. } | Self::Interrupted(_) | Self::Files(_) => true,
            Self::Url { .. }
            | Self::NoClient { .. }
            | Self::Missing { .. }
            | Self::Damaged { .. }
            | Self::WrongSize { .. } => false,
        }
    }
}

/// Compares the digest and size of content that was read with those of the requested blob.
pub(super) fn check_content(
    blob: &BlobRef,
    found: Digest,
    found_bytes: u64,
    place: &str,
) -> Result<(), BlobError> {
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
