//! Fetches a task's blobs from the blob store to this machine, before the media child and the engine read
//! them. What the last tasks have fetched is kept, because chunks that lie side by side share segments.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use latentfarm_common::blob::{BlobError, Store};
use latentfarm_common::digest::Digest;
use latentfarm_common::error::one_line;
use latentfarm_common::nats::Connection;
use latentfarm_common::wire::blob::BlobRef;
use latentfarm_common::wire::media::LocalSlice;
use latentfarm_common::wire::outcome::Failure;
use latentfarm_common::wire::task::SegmentSlice;
use latentfarm_common::wire::{self, Message};
use tokio::task::spawn_blocking;

/// The number of blobs that were used last and are kept.
const KEPT: usize = 16;

/// The folder for copies of remote blobs; each file is named by its digest. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct FetchFolder {
    path: Arc<PathBuf>,
    /// The blobs that were used last, the oldest first.
    used: Arc<Mutex<VecDeque<Digest>>>,
}

impl FetchFolder {
    pub(super) fn new(path: &Path) -> Self {
        Self {
            path: Arc::new(path.to_owned()),
            used: Arc::default(),
        }
    }

    /// Notes that a blob is used, and removes those that were not used for long. A file that a child has open stays
    /// readable for it.
    fn note(&self, digest: Digest) {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.retain(|other| *other != digest);
        used.push_back(digest);
        while used.len() > KEPT {
            if let Some(oldest) = used.pop_front() {
                // It is not there if the store is a folder of this machine.
                let _not_there = std::fs::remove_file(self.path.join(oldest.to_string()));
            }
        }
    }
}

/// Reads a task's blobs from the store that the task names.
#[derive(Clone)]
pub(super) struct Fetcher {
    pub(super) store: Store,
    /// The link to the store's server, if it has one.
    pub(super) link: Option<Connection>,
    pub(super) folder: FetchFolder,
}

impl Fetcher {
    /// The folder for temporary files.
    pub(super) fn scratch(&self) -> &Path {
        &self.folder.path
    }

    /// Returns the message that a blob holds.
    pub(super) async fn message<M: Message>(&self, blob: &BlobRef) -> Result<M, Failure> {
        let bytes = self.outlast(|| self.store.get_bytes(blob)).await?;
        wire::decode(&bytes).map_err(|error| Failure::BadInput {
            message: format!("blob {}: {}", blob.digest, one_line(&error)),
        })
    }

    /// Returns the content of a blob that other tasks use too, and keeps a copy of it.
    pub(super) async fn kept_bytes(&self, blob: &BlobRef) -> Result<Vec<u8>, Failure> {
        let path = self.local_file(blob).await?;
        let read = spawn_blocking(move || std::fs::read(path)).await;
        let bytes = read.ok().and_then(Result::ok);
        match bytes.filter(|bytes| Digest::of(bytes) == blob.digest) {
            Some(bytes) => Ok(bytes),
            // The copy is not what was fetched.
            None => self.outlast(|| self.store.get_bytes(blob)).await,
        }
    }

    /// Reads from the store, and reads again what cannot be read in an outage. An error may pass later, or on
    /// another worker, so the failure is transient.
    async fn outlast<T, F>(&self, mut read: impl FnMut() -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, BlobError>>,
    {
        let result = match &self.link {
            Some(link) => link.outlast(read).await,
            None => read().await,
        };
        result.map_err(|error| Failure::Transient {
            message: one_line(&error),
        })
    }

    async fn local_file(&self, blob: &BlobRef) -> Result<PathBuf, Failure> {
        self.folder.note(blob.digest);
        self.outlast(|| self.store.local_file(blob, self.scratch())).await
    }

    /// Fetches segment slices and returns them as files of this machine.
    pub(super) async fn slices(&self, slices: &[SegmentSlice]) -> Result<Vec<LocalSlice>, Failure> {
        let mut local = Vec::with_capacity(slices.len());
        for slice in slices {
            let path = self.local_file(&slice.blob).await?;
            let path = path
                .to_str()
                .map(str::to_owned)
                .ok_or_else(|| Failure::WorkerUnfit {
                    message: format!("the path `{}` is not UTF-8", path.display()),
                })?;
            local.push(LocalSlice::of(slice, path));
        }
        Ok(local)
    }
}
