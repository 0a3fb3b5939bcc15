//! Fetches a task's blobs from the blob store to this machine, before the media child and the engine read
//! them.

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
    /// The folder for copies of remote blobs; each file is named by its digest.
    pub(super) scratch: &'a Path,
}

impl Fetcher<'_> {
    /// Returns the message that a blob holds.
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

    /// Fetches segment slices and returns them as files of this machine.
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

/// A blob that cannot be read now may be readable later, or by another worker: the failure is transient.
fn unreachable_blob(error: &(dyn std::error::Error + 'static)) -> Failure {
    Failure::Transient {
        message: one_line(error),
    }
}
