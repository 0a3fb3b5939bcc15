//! The farm as ingest writes to it: from threads for blocking work, and patiently, because a server may be
//! restarted while the video is cut. The dispatcher reports the outage meanwhile.

use std::error::Error;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use latentfarm_common::backoff::Backoff;
use latentfarm_common::blob::BlobError;
use latentfarm_common::error::one_line;
use latentfarm_common::shutdown::Shutdown;
use latentfarm_common::wire::blob::BlobRef;
use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::dispatch::Farm;
use crate::ingest::BlobSink;

/// What cannot be written for this long, although the link to the farm is up, is given up.
const LIMIT: Duration = Duration::from_mins(1);
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(2));

/// Writes to a farm until the process is asked to end, or until the caller no longer needs the result. Clones
/// share that.
#[derive(Clone)]
pub(super) struct StoreSink {
    farm: Farm,
    runtime: Handle,
    shutdown: Shutdown,
    is_stopped: Arc<AtomicBool>,
}

/// Stops the writers of a sink when it is dropped.
#[must_use = "dropping the guard stops the sink"]
pub(super) struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl StoreSink {
    /// Makes a sink, to be used on other threads than those of the runtime, which the caller is on.
    pub(super) fn new(farm: &Farm, shutdown: Shutdown) -> (Self, StopOnDrop) {
        let is_stopped = Arc::new(AtomicBool::new(false));
        let sink = Self {
            farm: farm.clone(),
            runtime: Handle::current(),
            shutdown,
            is_stopped: Arc::clone(&is_stopped),
        };
        (sink, StopOnDrop(is_stopped))
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
            let (mut backoff, mut failing_since) = (BACKOFF, None);
            loop {
                self.ensure_running()?;
                let error = match write(&self.farm).await {
                    Ok(written) => return Ok(written),
                    Err(error) => error,
                };
                let now = Instant::now();
                if !self.farm.connection.is_up() {
                    failing_since = None;
                }
                let since = *failing_since.get_or_insert(now);
                if !is_transient(&error) || now - since > LIMIT {
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
