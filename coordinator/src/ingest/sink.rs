//! Where ingest puts the blobs that a job is planned from.

use std::io;
use std::path::Path;

use latentfarm_common::wire::blob::BlobRef;

/// Where blobs go.
pub trait BlobSink {
    /// Stores the content of a file, which is deleted afterwards by the caller if it still exists.
    fn put_file(&mut self, path: &Path) -> io::Result<BlobRef>;
    fn put_bytes(&mut self, bytes: &[u8]) -> io::Result<BlobRef>;
}
