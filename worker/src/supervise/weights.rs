//! Where a worker has the weights of a task: in a folder that its user named, or in the cache of this machine, which is
//! filled from the farm's store. The runner asks for them before the engine loads them.
//!
//! A worker that cannot have them is unfit for the task, and says what would mend it: another worker takes the chunk, and
//! this one tries again later.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use latentfarm_common::blob::{BlobError, Store};
use latentfarm_common::digest::Digest;
use latentfarm_common::error::one_line;
use latentfarm_common::nats::Connection;
use latentfarm_common::nats::shared_weights::{self, SharedWeightsError};
use latentfarm_common::wire::outcome::Failure;
use latentfarm_common::wire::weights::{SharedFile, SharedWeights};
use latentsync::Checkpoint;
use tokio::task::spawn_blocking;

use super::progress_reporter::ALIVE_INTERVAL;
use crate::consume::Progress;
use crate::machine::weights_cache::{CacheError, CachedWeights, FetchLock, WeightsCache};

/// How often a worker looks whether another one of this machine has fetched.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long another worker may fetch without anything arriving, for example because it was stopped. It takes a while to
/// check what has arrived, too.
const STALLED_AFTER: Duration = Duration::from_mins(5);
/// How often the log says how far a fetch is.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// What mends weights that the farm's store does not have, or not as they were.
const MEND: &str = "store them with `latentfarm share-weights DIR --nats URL`";

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

    /// Makes sure that the weights of a task are on this machine. To fetch them counts as progress of the task: each wait
    /// for the server, and for another worker, has a limit of its own.
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

/// What a worker does about weights that it wants.
#[derive(Debug)]
enum Turn {
    /// It uses them.
    Here(CachedWeights),
    /// It fetches them.
    Fetch(FetchLock),
}

/// Returns weights of the cache, which are fetched if they are not there.
async fn cached(
    cache: &WeightsCache,
    identity: Digest,
    link: Option<&Connection>,
) -> Result<CachedWeights, Failure> {
    match turn(cache, identity, STALLED_AFTER).await? {
        Turn::Here(weights) => Ok(weights),
        Turn::Fetch(right) => {
            let unconnected = || {
                unfit(format!(
                    "the weights {identity} are not here, and no farm is connected"
                ))
            };
            fetch(cache, &right, identity, link.ok_or_else(unconnected)?).await
        }
    }
}

/// Waits until weights are in the cache, or until it is this worker's turn to fetch. Fails if another worker has the turn
/// and nothing arrives for so long.
async fn turn(cache: &WeightsCache, identity: Digest, stalled_after: Duration) -> Result<Turn, Failure> {
    let mut arrived = None;
    let mut since = Instant::now();
    loop {
        let right = cache.try_lock().map_err(|error| unfit(one_line(&error)))?;
        // Another worker may have fetched them before it gave up the right.
        if let Some(weights) = cache.open(identity).map_err(|error| unfit(one_line(&error)))? {
            return Ok(Turn::Here(weights));
        }
        if let Some(right) = right {
            return Ok(Turn::Fetch(right));
        }
        let now = cache.arrived_bytes();
        match arrived.replace(now) {
            None => tracing::info!(weights = %identity, "another worker of this machine fetches weights"),
            Some(before) if before != now => since = Instant::now(),
            Some(_) if since.elapsed() < stalled_after => {}
            Some(_) => {
                return Err(unfit(format!(
                    "the weights {identity} are not here, and another worker of this machine, which fetches, gets \
                     nothing: look for a stopped `latentfarm-worker`"
                )));
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Fetches weights from the farm's store into the cache.
async fn fetch(
    cache: &WeightsCache,
    right: &FetchLock,
    identity: Digest,
    link: &Connection,
) -> Result<CachedWeights, Failure> {
    let list = link.outlast(|| shared_weights::find(link, identity)).await;
    let list = list.map_err(|error| unlisted(identity, &error))?;
    let list = list.ok_or_else(|| unfit(format!("the farm's store has no weights {identity}: {MEND}")))?;
    let store = shared_weights::store(link).map_err(|error| unfetched(identity, &error))?;
    let mib = list.bytes() >> 20;
    tracing::info!(weights = %identity, mib, "fetching weights from the farm's store");
    let of_cache = |error: CacheError| unfit(one_line(&error));
    let folder = cache.begin(right, identity, list.bytes()).map_err(of_cache)?;
    let fetched = fetch_files(&store, link, &list, &folder);
    let fetched = logged(fetched, || {
        let arrived = cache.arrived_bytes() >> 20;
        tracing::info!(weights = %identity, "{arrived} of {mib} MiB of the weights are here");
    });
    match fetched.await {
        Ok(()) => {}
        Err(FetchError::Store(error)) => return Err(unfetched(identity, &error)),
        Err(FetchError::Folder(path, error)) => {
            return Err(unfit(format!("cannot create `{}`: {error}", path.display())));
        }
    }
    let checked = folder.clone();
    // This reads the files once more, and keeps their digests for the engine.
    let found = spawn_blocking(move || Checkpoint::open(&checked).map(|found| found.identity())).await;
    let problem = match found {
        Ok(Ok(found)) if found == identity => None,
        Ok(Ok(found)) => Some(format!("they are {found}")),
        Ok(Err(error)) => Some(one_line(&error)),
        Err(error) => Some(one_line(&error)),
    };
    if let Some(problem) = problem {
        cache.discard(right, identity).map_err(of_cache)?;
        return Err(unfit(format!(
            "what the farm's store has as the weights {identity} is something else: {problem}: {MEND}"
        )));
    }
    let weights = cache.finish(right, identity).map_err(of_cache)?;
    tracing::info!(weights = %identity, mib, "the weights are here");
    Ok(weights)
}

/// Why files could not be fetched.
enum FetchError {
    /// The store does not have one, or it could not be written.
    Store(BlobError),
    /// Its folder could not be made.
    Folder(PathBuf, std::io::Error),
}

async fn fetch_files(
    store: &Store,
    link: &Connection,
    list: &SharedWeights,
    folder: &Path,
) -> Result<(), FetchError> {
    for (number, file) in (1..).zip(&list.files) {
        let path = folder.join(&file.path);
        if is_there(file, &path).await {
            continue;
        }
        let (of, mib) = (list.files.len(), file.blob.bytes >> 20);
        tracing::info!("fetching file {number} of {of}, `{}` ({mib} MiB)", file.path);
        if let Some(parent) = path.parent() {
            let made = std::fs::create_dir_all(parent);
            made.map_err(|error| FetchError::Folder(parent.to_owned(), error))?;
        }
        // It gets its name when it is whole and has its digest.
        let fetched = link.outlast(|| store.get_to_file(&file.blob, &path)).await;
        fetched.map_err(FetchError::Store)?;
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

/// Waits for `work`, and calls `log` now and then meanwhile.
async fn logged<T>(work: impl Future<Output = T>, log: impl Fn()) -> T {
    tokio::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return done,
            () = tokio::time::sleep(LOG_EVERY) => log(),
        }
    }
}

/// The failure of a task whose weights the store does not list as it should.
fn unlisted(identity: Digest, error: &SharedWeightsError) -> Failure {
    match error {
        SharedWeightsError::Stream(_) => Failure::Transient {
            message: one_line(error),
        },
        SharedWeightsError::Damaged(_) | SharedWeightsError::Unsound => unfit(format!(
            "cannot fetch the weights {identity}: {}: {MEND}",
            one_line(error)
        )),
    }
}

/// The failure of a task whose weights could not be fetched.
fn unfetched(identity: Digest, error: &BlobError) -> Failure {
    let cause = one_line(error);
    match error {
        BlobError::Nats { .. } | BlobError::Interrupted(_) => Failure::Transient { message: cause },
        BlobError::Files(_) => unfit(format!("cannot keep the weights {identity}: {cause}")),
        BlobError::Missing { .. }
        | BlobError::Damaged { .. }
        | BlobError::WrongSize { .. }
        | BlobError::Url { .. }
        | BlobError::NoClient { .. } => {
            unfit(format!("cannot fetch the weights {identity}: {cause}: {MEND}"))
        }
    }
}

fn unfit(message: String) -> Failure {
    Failure::WorkerUnfit { message }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BRIEFLY: Duration = Duration::from_millis(100);

    fn cache(dir: &tempfile::TempDir) -> WeightsCache {
        WeightsCache::new(dir.path().join("weights"), 1 << 20)
    }

    #[tokio::test]
    async fn a_worker_uses_what_another_one_has_fetched_while_it_waited() {
        let dir = tempfile::tempdir().unwrap();
        let (cache, identity) = (cache(&dir), Digest::of(b"weights"));
        let Turn::Fetch(right) = turn(&cache, identity, BRIEFLY).await.unwrap() else {
            panic!("there are no weights yet");
        };
        let other = async {
            // It comes to its turn while the first one has the right, and waits.
            tokio::task::yield_now().await;
            let folder = cache.begin(&right, identity, 1).unwrap();
            std::fs::write(folder.join("unet.pt"), "x").unwrap();
            drop(cache.finish(&right, identity).unwrap());
            drop(right);
        };
        let (second, ()) = tokio::join!(turn(&cache, identity, STALLED_AFTER), other);
        assert!(matches!(second.unwrap(), Turn::Here(_)));
    }

    #[tokio::test]
    async fn a_worker_waits_for_another_one_as_long_as_something_arrives() {
        let dir = tempfile::tempdir().unwrap();
        let (cache, identity) = (cache(&dir), Digest::of(b"weights"));
        let right = cache.try_lock().unwrap().unwrap();
        let failure = turn(&cache, identity, BRIEFLY).await.unwrap_err();
        assert!(
            matches!(&failure, Failure::WorkerUnfit { message } if message.contains("gets nothing")),
            "{failure:?}"
        );
        drop(right);
        assert!(matches!(
            turn(&cache, identity, BRIEFLY).await.unwrap(),
            Turn::Fetch(_)
        ));
    }

    #[test]
    fn what_the_store_has_not_or_otherwise_is_to_be_shared_again() {
        let identity = Digest::of(b"weights");
        let place = || "object store farm-weights".to_owned();
        for error in [
            BlobError::Missing {
                digest: identity,
                place: place(),
            },
            BlobError::Damaged {
                digest: identity,
                place: place(),
                found: identity,
                found_bytes: 1,
            },
        ] {
            let failure = unfetched(identity, &error);
            assert!(
                matches!(&failure, Failure::WorkerUnfit { message } if message.contains("latentfarm share-weights DIR")),
                "{failure:?}"
            );
        }
    }
}
