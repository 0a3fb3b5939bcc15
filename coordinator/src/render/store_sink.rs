//! The farm as ingest writes to it: from threads for blocking work, and patiently, because a server may be
//! restarted, or its storage may be full, while the video is cut. The dispatcher reports the wait meanwhile.

use std::error::Error;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use latentfarm_common::backoff::Backoff;
use latentfarm_common::blob::BlobError;
use latentfarm_common::error::one_line;
use latentfarm_common::nats::storage;
use latentfarm_common::shutdown::Shutdown;
use latentfarm_common::wire::blob::BlobRef;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::dispatch::Farm;
use crate::ingest::BlobSink;
use crate::job::segments::VideoNews;

/// What cannot be written for this long, although the link to the farm is up, is given up.
const LIMIT: Duration = Duration::from_mins(1);
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(2));

/// Writes to a farm until the process is asked to end, or until the caller no longer needs the result. Clones
/// share that.
#[derive(Clone)]
pub(crate) struct StoreSink {
    farm: Farm,
    runtime: Handle,
    shutdown: Shutdown,
    is_stopped: Arc<AtomicBool>,
    /// The dispatcher, if it runs: it reports a wait for storage, and ends one that lasts too long.
    news: Option<mpsc::UnboundedSender<VideoNews>>,
}

/// Stops the writers of a sink when it is dropped.
#[must_use = "dropping the guard stops the sink"]
pub(crate) struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl StoreSink {
    /// Makes a sink, to be used on other threads than those of the runtime, which the caller is on.
    pub(crate) fn new(farm: &Farm, shutdown: Shutdown) -> (Self, StopOnDrop) {
        let is_stopped = Arc::new(AtomicBool::new(false));
        let sink = Self {
            farm: farm.clone(),
            runtime: Handle::current(),
            shutdown,
            is_stopped: Arc::clone(&is_stopped),
            news: None,
        };
        (sink, StopOnDrop(is_stopped))
    }

    /// Lets the sink wait for room in the farm's storage for as long as the dispatcher lets the job wait.
    pub(super) fn reporting_to(self, news: mpsc::UnboundedSender<VideoNews>) -> Self {
        Self {
            news: Some(news),
            ..self
        }
    }

    /// Whether writing goes on: no signal has come, and the guard is there.
    pub(super) fn is_running(&self) -> bool {
        self.shutdown.is_running() && !self.is_stopped.load(Ordering::Relaxed)
    }

    /// Returns an error unless [`StoreSink::is_running`]. The thread of ingest ends with it, and removes its
    /// temporary files.
    pub(super) fn ensure_running(&self) -> io::Result<()> {
        if self.is_running() {
            Ok(())
        } else {
            Err(io::Error::other("the render was interrupted"))
        }
    }

    /// Writes something, with more tries while the farm does not answer. `is_transient` tells which errors
    /// mean that.
    pub(super) fn persist<T, E: Error + Send + Sync + 'static>(
        &self,
        is_transient: impl Fn(&E) -> bool,
        write: &impl AsyncFn(&Farm) -> Result<T, E>,
    ) -> io::Result<T> {
        self.runtime.block_on(async {
            let (mut backoff, mut patience) = (BACKOFF, Patience::default());
            loop {
                self.ensure_running()?;
                let error = match write(&self.farm).await {
                    Ok(written) => return Ok(written),
                    Err(error) => error,
                };
                let is_bounded_elsewhere = self.reports_full_storage(&error) || !self.farm.connection.is_up();
                if !is_transient(&error) || patience.is_over(is_bounded_elsewhere, Instant::now()) {
                    return Err(io::Error::other(error));
                }
                tracing::debug!(
                    error = one_line(&error),
                    "a write of ingest failed and is tried again"
                );
                tokio::time::sleep(backoff.next_delay()).await;
            }
        })
    }

    /// Tells the dispatcher about an error if it means that the farm's storage is full. Returns whether it was
    /// told.
    fn reports_full_storage(&self, error: &(dyn Error + 'static)) -> bool {
        let Some(news) = self.news.as_ref().filter(|_| storage::is_full(error)) else {
            return false;
        };
        let error = one_line(error);
        news.send(VideoNews::StorageFull { error }).is_ok()
    }
}

/// How long a write has failed. Outages, and waits for storage that the dispatcher knows of, have limits of
/// their own and do not count.
#[derive(Debug, Default)]
struct Patience {
    failing_since: Option<Instant>,
}

impl Patience {
    /// Takes one more failure. Returns whether the write is given up.
    fn is_over(&mut self, is_bounded_elsewhere: bool, now: Instant) -> bool {
        if is_bounded_elsewhere {
            self.failing_since = None;
            return false;
        }
        now - *self.failing_since.get_or_insert(now) > LIMIT
    }
}

impl BlobSink for StoreSink {
    fn put_file(&mut self, path: &Path) -> io::Result<BlobRef> {
        self.persist(is_no_answer, &async |farm: &Farm| farm.store.put_file(path).await)
    }

    fn put_bytes(&mut self, bytes: &[u8]) -> io::Result<BlobRef> {
        self.persist(is_no_answer, &async |farm: &Farm| {
            farm.store.put_bytes(bytes.to_vec()).await
        })
    }
}

/// Whether the blob could not be stored because the server did not answer.
fn is_no_answer(error: &BlobError) -> bool {
    matches!(error, BlobError::Nats { .. })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_failures_that_nobody_else_bounds_are_given_up_after_the_limit() {
        let (start, mut patience) = (Instant::now(), Patience::default());
        let mut is_over =
            |seconds, elsewhere| patience.is_over(elsewhere, start + Duration::from_secs(seconds));
        assert!(!is_over(0, false));
        assert!(!is_over(60, false));
        assert!(!is_over(3600, true), "the storage is full");
        assert!(!is_over(3700, false), "the time begins anew");
        assert!(!is_over(3760, false));
        assert!(is_over(3761, false));
    }
}
