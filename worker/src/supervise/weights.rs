//! Where a worker has the weights of a task: in a folder that its user named, or in the cache of this machine, which is
//! filled from the farm's store. The runner asks for them before the engine loads them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use latentfarm_common::blob::Store;
use latentfarm_common::digest::Digest;
use latentfarm_common::error::one_line;
use latentfarm_common::nats::{Connection, shared_weights};
use latentfarm_common::wire::outcome::Failure;
use latentfarm_common::wire::weights::{SharedFile, SharedWeights};
use latentsync::Checkpoint;
use tokio::task::spawn_blocking;

use super::progress_reporter::ALIVE_INTERVAL;
use crate::consume::Progress;
use crate::machine::weights_cache::{CacheError, CachedWeights, FetchLock, WeightsCache};

/// How often a worker looks whether another one of this machine has fetched.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Where the weights come from.
#[derive(Clone, Debug)]
pub enum WeightsSource {
    /// All tasks use the weights in this folder; the engine refuses others.
    Folder(PathBuf),
    /// The weights that a task names are fetched from the farm's store, unless they are in the cache.
    Store(WeightsCache),
}

/// The weights of the task at hand, which stay in the cache until those of another task are wanted.
#[derive(Debug)]
pub(super) struct TaskWeights {
    source: WeightsSource,
    cached: Option<(Digest, CachedWeights)>,
}

impl TaskWeights {
    pub(super) fn new(source: WeightsSource) -> Self {
        Self { source, cached: None }
    }

    /// Makes sure that the weights of a task are on this machine. To fetch them counts as progress of the task.
    pub(super) async fn prepare(
        &mut self,
        identity: Digest,
        link: Option<&Connection>,
        progress: &Progress,
    ) -> Result<(), Failure> {
        let WeightsSource::Store(cache) = &self.source else {
            return Ok(());
        };
        if self.cached.as_ref().is_none_or(|(known, _)| *known != identity) {
            // Those of the task before may go, should the others need their room.
            self.cached = None;
            // The future is large: without the box it would be part of every task's.
            let fetched = Box::pin(cached(cache, identity, link));
            let fetched = progress.step_while(ALIVE_INTERVAL, fetched);
            self.cached = Some((identity, fetched.await?));
        }
        Ok(())
    }

    /// Returns the folder of the weights that were prepared last.
    pub(super) fn dir(&self) -> &Path {
        match (&self.source, &self.cached) {
            (WeightsSource::Folder(dir), _) => dir,
            (WeightsSource::Store(_), Some((_, weights))) => &weights.path,
            (WeightsSource::Store(_), None) => Path::new(""),
        }
    }
}

/// Returns weights of the cache, which are fetched if they are not there.
async fn cached(
    cache: &WeightsCache,
    identity: Digest,
    link: Option<&Connection>,
) -> Result<CachedWeights, Failure> {
    loop {
        if let Some(weights) = cache.open(identity).map_err(|error| unfit(&error))? {
            return Ok(weights);
        }
        let Some(link) = link else {
            let message = format!("the weights {identity} are not here, and no farm is connected");
            return Err(Failure::WorkerUnfit { message });
        };
        match cache.try_lock().map_err(|error| unfit(&error))? {
            // Another worker may have fetched them between the two looks.
            Some(right) if cache.open(identity).map_err(|error| unfit(&error))?.is_none() => {
                fetch(cache, &right, identity, link).await?;
            }
            Some(_) => {}
            None => tokio::time::sleep(LOOK_EVERY).await,
        }
    }
}

/// Fetches weights from the farm's store into the cache.
async fn fetch(
    cache: &WeightsCache,
    right: &FetchLock,
    identity: Digest,
    link: &Connection,
) -> Result<(), Failure> {
    let list = link.outlast(|| shared_weights::find(link, identity)).await;
    let list = list.map_err(|error| transient(&error))?.ok_or_else(|| Failure::WorkerUnfit {
        message: format!(
            "the farm's store has no weights {identity}: store them with `latentfarm share-weights DIR --nats URL`, or \
             start this worker with their folder"
        ),
    })?;
    let store = shared_weights::store(link).map_err(|error| transient(&error))?;
    let mib = list.bytes() >> 20;
    tracing::info!(weights = %identity, mib, "fetching weights from the farm's store");
    let folder = cache
        .begin(right, identity, list.bytes())
        .map_err(|error| unfit(&error))?;
    fetch_files(&store, link, &list, &folder).await?;
    let (checked, expected) = (folder.clone(), identity);
    // This reads the files once more, and keeps their digests for the engine.
    let found = spawn_blocking(move || Checkpoint::open(&checked).map(|found| found.identity())).await;
    let problem = match found {
        Ok(Ok(found)) if found == expected => None,
        Ok(Ok(found)) => Some(format!("they are {found}")),
        Ok(Err(error)) => Some(one_line(&error)),
        Err(error) => Some(one_line(&error)),
    };
    if let Some(problem) = problem {
        cache.discard(right, identity).map_err(|error| unfit(&error))?;
        let message =
            format!("the farm's store has other files under the name of the weights {identity}: {problem}");
        return Err(Failure::WorkerUnfit { message });
    }
    cache.finish(right, identity).map_err(|error| unfit(&error))?;
    tracing::info!(weights = %identity, mib, "the weights are here");
    Ok(())
}

async fn fetch_files(
    store: &Store,
    link: &Connection,
    list: &SharedWeights,
    folder: &Path,
) -> Result<(), Failure> {
    for (number, file) in (1..).zip(&list.files) {
        let path = folder.join(&file.path);
        if is_there(file, &path).await {
            continue;
        }
        let (of, mib) = (list.files.len(), file.blob.bytes >> 20);
        tracing::info!("fetching file {number} of {of}, `{}` ({mib} MiB)", file.path);
        if let Some(parent) = path.parent() {
            let made = std::fs::create_dir_all(parent);
            made.map_err(|error| Failure::WorkerUnfit {
                message: format!("cannot create `{}`: {error}", parent.display()),
            })?;
        }
        // It gets its name when it is whole and has its digest.
        let fetched = link.outlast(|| store.get_to_file(&file.blob, &path)).await;
        fetched.map_err(|error| transient(&error))?;
    }
    Ok(())
}

/// Whether an earlier try has fetched a file.
async fn is_there(file: &SharedFile, path: &Path) -> bool {
    let (blob, path) = (file.blob, path.to_owned());
    let is_whole = move || {
        let found = std::fs::metadata(&path).is_ok_and(|found| found.len() == blob.bytes);
        found && Digest::of_file(&path).is_ok_and(|(digest, _)| digest == blob.digest)
    };
    spawn_blocking(is_whole).await.unwrap_or(false)
}

fn unfit(error: &CacheError) -> Failure {
    Failure::WorkerUnfit {
        message: one_line(error),
    }
}

fn transient(error: &(dyn std::error::Error + 'static)) -> Failure {
    Failure::Transient {
        message: one_line(error),
    }
}
