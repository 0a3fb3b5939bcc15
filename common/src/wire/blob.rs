//! References to content by its digest, as tasks and records hold them.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// Names one immutable blob in the job's store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BlobRef {
    /// Digest of the blob's content.
    pub digest: Digest,
    /// Length of the content in bytes.
    pub bytes: u64,
}
