//! Making a result count: blob, check, done record.

use std::time::Duration;

use latentfarm_common::blob::{BlobError, Store};
use latentfarm_common::ids::WorkerId;
use latentfarm_common::nats::Connection;
use latentfarm_common::nats::done::{Commit, DoneError, DoneLog};
use latentfarm_common::time::milliseconds;
use latentfarm_common::wire::blob::BlobRef;
use latentfarm_common::wire::outcome::DoneRecord;
use latentfarm_common::wire::task::Task;
use tokio::time::Instant;

use super::progress::Progress;
use super::runner::{Artifact, Finished};

/// An upload that takes longer is given up; a chunk has at most 480 frames.
const UPLOAD_LIMIT: Duration = Duration::from_mins(15);
/// The store's own time limits say whether an upload is alive, so its waiting counts as progress.
const UPLOAD_STEP: Duration = Duration::from_secs(2);

/// Why a result does not count.
#[derive(Debug, thiserror::Error)]
pub(super) enum CommitError {
    #[error("cannot store the result")]
    Store(#[source] BlobError),
    #[error("the result was not stored within {} s", UPLOAD_LIMIT.as_secs())]
    TooSlow,
    #[error("the stored result is not what was sent")]
    Check(#[source] BlobError),
    #[error("cannot record the result")]
    Record(#[source] DoneError),
}

/// Stores the artifact and writes the done record. True: this result is the chunk's; false: another was first.
pub(super) async fn commit(
    connection: &Connection,
    worker: &WorkerId,
    task: &Task,
    store: &Store,
    finished: Finished,
    progress: &Progress,
) -> Result<bool, CommitError> {
    let started = Instant::now();
    let artifact = upload(store, finished.artifact, progress).await?;
    store.check(&artifact).await.map_err(CommitError::Check)?;
    let mut timings = finished.timings;
    timings.commit_ms = milliseconds(started.elapsed());
    let record = DoneRecord {
        chunk: task.chunk,
        attempt: task.attempt,
        worker: worker.clone(),
        numerics_fingerprint: finished.numerics_fingerprint,
        artifact,
        body: finished.body,
        timings,
        memory: finished.memory,
    };
    progress.step();
    match DoneLog::new(connection)
        .commit(&record)
        .await
        .map_err(CommitError::Record)?
    {
        Commit::Won { .. } => Ok(true),
        Commit::Lost(entry) => {
            let by = entry.record.ok().map(|other| other.worker.to_string());
            tracing::info!(chunk = %task.chunk, by, "another result was first, this one is dropped");
            Ok(false)
        }
    }
}

async fn upload(store: &Store, artifact: Artifact, progress: &Progress) -> Result<BlobRef, CommitError> {
    let put = async {
        match artifact {
            Artifact::File(path) => store.put_file(&path).await,
            Artifact::Bytes(bytes) => store.put_bytes(bytes).await,
        }
    };
    let put = tokio::time::timeout(UPLOAD_LIMIT, put);
    tokio::pin!(put);
    let mut ticks = tokio::time::interval(UPLOAD_STEP);
    loop {
        tokio::select! {
            stored = &mut put => {
                return stored.map_err(|_| CommitError::TooSlow)?.map_err(CommitError::Store);
            }
            _ = ticks.tick() => progress.step(),
        }
    }
}
