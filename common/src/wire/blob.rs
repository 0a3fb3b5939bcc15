//! References to content by digest.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// Names one immutable blob in the job's store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BlobRef {
    pub digest: Digest,
    pub bytes: u64,
}
