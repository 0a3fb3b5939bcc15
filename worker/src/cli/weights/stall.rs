//! A limit on how long a download may bring nothing, since `hf-hub` itself would wait for ever.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

/// Counts the pieces of data that a connection has brought.
pub(super) type Activity = Arc<AtomicU64>;

/// A connection brought nothing for this long.
#[derive(Debug, thiserror::Error)]
#[error("no data came for {} seconds", .0.as_secs())]
pub(super) struct Stalled(Duration);

/// Runs `work` on its own thread for as long as `activity` changes within `limit`. The thread of stalled work
/// is left behind and ends with the process.
pub(super) fn with_stall_limit<T: Send + 'static>(
    limit: Duration,
    activity: &Activity,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Stalled> {
    let (done, result) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        // The receiver is gone if the work had stalled.
        let _stalled = done.send(work());
    });
    let mut last = activity.load(Ordering::Relaxed);
    loop {
        match result.recv_timeout(limit) {
            Ok(value) => return Ok(value),
            Err(RecvTimeoutError::Timeout) => {
                let now = activity.load(Ordering::Relaxed);
                if now == last {
                    return Err(Stalled(limit));
                }
                last = now;
            }
            Err(RecvTimeoutError::Disconnected) => match thread.join() {
                Err(panic) => std::panic::resume_unwind(panic),
                Ok(()) => return Err(Stalled(limit)),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stalled_connection_is_given_up_and_a_slow_one_is_not() {
        let limit = Duration::from_millis(20);
        let (release, held) = mpsc::channel::<()>();
        let stalled = with_stall_limit(limit, &Activity::default(), move || held.recv());
        assert_eq!(stalled.unwrap_err().to_string(), "no data came for 0 seconds");
        drop(release);

        let activity = Activity::default();
        let counting = Arc::clone(&activity);
        let slow = with_stall_limit(limit, &activity, move || {
            let started = std::time::Instant::now();
            while started.elapsed() < 5 * limit {
                counting.fetch_add(1, Ordering::Relaxed);
            }
            7
        });
        assert_eq!(slow.unwrap(), 7);
    }
}
