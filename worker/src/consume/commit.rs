//! Commits a result in this order: store the blob, check it, write the done record. `handle.rs` calls it for
//! each task that was run.

use std::time::Duration;

use latentfarm_common::backoff::Backoff;
use latentfarm_common::blob::{BlobError, Store, settled};
use latentfarm_common::error::one_line;
use latentfarm_common::nats::done::{CommitOutcome, DoneLog};
use latentfarm_common::nats::storage::{self, STORAGE_MEND};
use latentfarm_common::nats::{Connection, StreamError};
use latentfarm_common::time::milliseconds;
use latentfarm_common::waiting::{WaitReport, WaitReporter, rough_time};
use latentfarm_common::wire::blob::BlobRef;
use latentfarm_common::wire::outcome::DoneRecord;
use latentfarm_common::wire::task::Task;
use tokio::time::Instant;

use super::progress::Progress;
use super::runner::{Artifact, TaskOutput};
use super::settings::Settings;

/// An upload that takes longer is abandoned; a chunk has at most 480 frames.
const UPLOAD_LIMIT: Duration = Duration::from_mins(15);
/// How often a wait for the store counts as progress. The store's own time limits end an upload that hangs.
const UPLOAD_STEP: Duration = Duration::from_secs(2);
/// The pauses between two tries to store a result while the store is full.
const WHILE_FULL: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(10));

/// Why a result could not be committed.
#[derive(Debug, thiserror::Error)]
pub(super) enum CommitError {
    #[error("cannot store the result")]
    Store(#[source] BlobError),
    #[error("the result was not stored within {} s", UPLOAD_LIMIT.as_secs())]
    TooSlow,
    #[error("the stored result is not the one that was sent")]
    Check(#[source] BlobError),
    #[error("cannot record the result")]
    Record(#[source] StreamError),
}

/// Stores the artifact and writes the done record. Returns true if this result is the chunk's, false if
/// another one was recorded first. An outage of the server is waited out.
pub(super) async fn commit(
    connection: &Connection,
    settings: &Settings,
    task: &Task,
    store: &Store,
    finished: TaskOutput,
    progress: &Progress,
) -> Result<bool, CommitError> {
    let started = Instant::now();
    let artifact = connection
        .outlast(|| upload(store, &finished.artifact, progress))
        .await?;
    let mut timings = finished.timings;
    timings.commit_ms = milliseconds(started.elapsed());
    let record = DoneRecord {
        chunk: task.chunk,
        attempt: task.attempt,
        worker: settings.worker.clone(),
        numerics_fingerprint: finished.numerics_fingerprint,
        kind: settings.kind,
        artifact,
        body: finished.body,
        timings,
        memory: finished.memory,
    };
    progress.step();
    let log = DoneLog::new(connection);
    let committed = connection.outlast(|| log.commit(&record));
    match committed.await.map_err(CommitError::Record)? {
        CommitOutcome::Won { .. } => Ok(true),
        CommitOutcome::Lost(entry) => {
            let by = entry.record.ok().map(|other| other.worker.to_string());
            tracing::info!(chunk = %task.chunk, by, "another result was recorded first, this one is dropped");
            Ok(false)
        }
    }
}

/// Stores an artifact and checks that it is there. While the store is full, the artifact is kept and sent
/// again.
async fn upload(store: &Store, artifact: &Artifact, progress: &Progress) -> Result<BlobRef, CommitError> {
    let (mut pauses, mut waits) = (WHILE_FULL, WaitReporter::default());
    let put = async {
        loop {
            let stored = match artifact {
                Artifact::File(path) => store.put_file(path.as_ref()).await,
                Artifact::Bytes(bytes) => store.put_bytes(bytes.clone()).await,
            };
            match stored {
                Err(error) if storage::is_full(&error) => {
                    progress.store_is_full();
                    if let Some(WaitReport::GoesOn(waited)) = waits.observe(Some(()), Instant::now()) {
                        tracing::warn!(
                            "waiting for room in the farm's store for {} ({}): {STORAGE_MEND}",
                            rough_time(waited),
                            one_line(&error)
                        );
                    }
                    tokio::time::sleep(pauses.next_delay()).await;
                }
                stored => return stored.map_err(CommitError::Store),
            }
        }
    };
    let put = tokio::time::timeout(UPLOAD_LIMIT, put);
    let artifact = progress.step_while(UPLOAD_STEP, put).await;
    let artifact = artifact.map_err(|_elapsed| CommitError::TooSlow)??;
    let checked = settled(|| store.check(&artifact)).await;
    checked.map_err(CommitError::Check)?;
    Ok(artifact)
}
