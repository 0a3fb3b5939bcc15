//! Work that may wait for ever, given up when it brings nothing for too long.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

/// Counts whatever shows that a connection lives.
pub(super) type Pulse = Arc<AtomicU64>;

/// Nothing came for too long.
#[derive(Debug, thiserror::Error)]
#[error("nothing came for {} seconds", .0.as_secs())]
pub(super) struct Silent(Duration);

/// Runs `work` on a thread of its own, as long as the pulse changes within `patience`. A silent thread is left
/// behind; it ends with the process.
pub(super) fn watched<T: Send + 'static>(
    patience: Duration,
    pulse: &Pulse,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Silent> {
    let (done, result) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        // Whoever waited may have given up.
        let _nobody = done.send(work());
    });
    let mut last = pulse.load(Ordering::Relaxed);
    loop {
        match result.recv_timeout(patience) {
            Ok(value) => return Ok(value),
            Err(RecvTimeoutError::Timeout) => {
                let now = pulse.load(Ordering::Relaxed);
                if now == last {
                    return Err(Silent(patience));
                }
                last = now;
            }
            Err(RecvTimeoutError::Disconnected) => match thread.join() {
                Err(panic) => std::panic::resume_unwind(panic),
                Ok(()) => return Err(Silent(patience)),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silent_connection_is_given_up_and_a_slow_one_is_not() {
        let patience = Duration::from_millis(20);
        let (release, held) = mpsc::channel::<()>();
        let silent = watched(patience, &Pulse::default(), move || held.recv());
        assert_eq!(silent.unwrap_err().to_string(), "nothing came for 0 seconds");
        drop(release);

        let pulse = Pulse::default();
        let beating = Arc::clone(&pulse);
        let slow = watched(patience, &pulse, move || {
            let started = std::time::Instant::now();
            while started.elapsed() < 5 * patience {
                beating.fetch_add(1, Ordering::Relaxed);
            }
            7
        });
        assert_eq!(slow.unwrap(), 7);
    }
}
