//! Brings a task's blobs to this machine.

use std::path::Path;

use latentfarm_common::blob::Store;
use latentfarm_common::error::one_line;
use latentfarm_common::wire::blob::BlobRef;
use latentfarm_common::wire::media::LocalSlice;
use latentfarm_common::wire::outcome::Failure;
use latentfarm_common::wire::task::SegmentSlice;
use latentfarm_common::wire::{self, Message};

/// Reads a task's blobs from the store that the task names.
pub(super) struct Fetcher<'a> {
    pub(super) store: &'a Store,
    /// Copies of remote blobs, one file a digest.
    pub(super) scratch: &'a Path,
}

impl Fetcher<'_> {
    /// A blob's content as the message it holds.
    pub(super) async fn message<M: Message>(&self, blob: &BlobRef) -> Result<M, Failure> {
        let bytes = self.bytes(blob).await?;
        wire::decode(&bytes).map_err(|error| Failure::BadInput {
            message: format!("blob {}: {}", blob.digest, one_line(&error)),
        })
    }

    pub(super) async fn bytes(&self, blob: &BlobRef) -> Result<Vec<u8>, Failure> {
        self.store
            .get_bytes(blob)
            .await
            .map_err(|error| unreachable_blob(&error))
    }

    /// Segment slices as files on this machine.
    pub(super) async fn slices(&self, slices: &[SegmentSlice]) -> Result<Vec<LocalSlice>, Failure> {
        let mut local = Vec::with_capacity(slices.len());
        for slice in slices {
            let path = self.store.local_file(&slice.blob, self.scratch).await;
            let path = path.map_err(|error| unreachable_blob(&error))?;
            let path = path
                .to_str()
                .map(str::to_owned)
                .ok_or_else(|| Failure::WorkerUnfit {
                    message: format!("the path `{}` is not UTF-8", path.display()),
                })?;
            local.push(LocalSlice {
                path,
                first: slice.first,
                pts: slice.pts.clone(),
            });
        }
        Ok(local)
    }
}

/// A blob that cannot be had now may be had later, or by another worker.
fn unreachable_blob(error: &(dyn std::error::Error + 'static)) -> Failure {
    Failure::Transient {
        message: one_line(error),
    }
}
