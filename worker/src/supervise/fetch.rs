//! Fetches a task's blobs from the blob store to this machine, before the media child and the engine read
//! them.

use std::path::Path;

use latentfarm_common::blob::{BlobError, Store};
use latentfarm_common::error::one_line;
use latentfarm_common::nats::Connection;
use latentfarm_common::wire::blob::BlobRef;
use latentfarm_common::wire::media::LocalSlice;
use latentfarm_common::wire::outcome::Failure;
use latentfarm_common::wire::task::SegmentSlice;
use latentfarm_common::wire::{self, Message};

/// Reads a task's blobs from the store that the task names.
pub(super) struct Fetcher<'a> {
    pub(super) store: &'a Store,
    /// The link to the store's server, if it has one.
    pub(super) link: Option<&'a Connection>,
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
        self.outlast(|| self.store.get_bytes(blob)).await
    }

    /// Reads from the store, and reads again what cannot be read in an outage. An error may pass later, or on
    /// another worker, so the failure is transient.
    async fn outlast<T, F>(&self, mut read: impl FnMut() -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, BlobError>>,
    {
        let result = match self.link {
            Some(link) => link.outlast(read).await,
            None => read().await,
        };
        result.map_err(|error| Failure::Transient {
            message: one_line(&error),
        })
    }

    /// Fetches segment slices and returns them as files of this machine.
    pub(super) async fn slices(&self, slices: &[SegmentSlice]) -> Result<Vec<LocalSlice>, Failure> {
        let mut local = Vec::with_capacity(slices.len());
        for slice in slices {
            let path = self
                .outlast(|| self.store.local_file(&slice.blob, self.scratch))
                .await?;
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
