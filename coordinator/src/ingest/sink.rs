//! The store that ingest writes a job's blobs to.

use std::io;
use std::path::Path;

use latentfarm_common::wire::blob::BlobRef;

/// A blob store, as ingest uses it.
pub trait BlobSink {
    /// Stores the content of a file. The caller deletes the file afterwards if it still exists.
    fn put_file(&mut self, path: &Path) -> io::Result<BlobRef>;
    /// Stores bytes that are in memory.
    fn put_bytes(&mut self, bytes: &[u8]) -> io::Result<BlobRef>;
}
