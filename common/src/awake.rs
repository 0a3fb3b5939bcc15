//! Time limits that count only time in which this process runs. A process that was stopped by Ctrl-Z, or whose
//! machine was suspended, finds all its deadlines passed when it goes on; that says nothing about the processes that
//! were stopped with it. The worker waits for its children with these limits.

use std::time::Duration;

/// The part of a limit that is waited for at a time. A stop of any length counts as one part at most.
const PART: Duration = Duration::from_secs(1);

/// Waits for `limit`, without the time in which this process was stopped.
pub async fn sleep(limit: Duration) {
    let mut left = limit;
    while !left.is_zero() {
        let part = left.min(PART);
        tokio::time::sleep(part).await;
        left -= part;
    }
}

/// Awaits `work`, and returns `None` if it takes longer than `limit`, without the time in which this process was
/// stopped.
pub async fn within<T>(limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        done = work => Some(done),
        () = sleep(limit) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::pin::Pin;
    use std::task::Poll;
    use tokio::time::{Instant, advance};

    async fn is_pending<T>(work: &mut Pin<Box<impl Future<Output = T>>>) -> bool {
        poll_fn(|context| Poll::Ready(work.as_mut().poll(context).is_pending())).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_counts_as_one_part_of_the_limit() {
        let started = Instant::now();
        let mut limit = Box::pin(within(Duration::from_mins(1), std::future::pending::<()>()));
        assert!(is_pending(&mut limit).await);
        // The process does not run for an hour: then all timers fire at once.
        advance(Duration::from_hours(1)).await;
        assert!(is_pending(&mut limit).await);
        assert_eq!(limit.await, None);
        assert_eq!(started.elapsed().as_secs(), 3600 + 59);
    }

    #[tokio::test(start_paused = true)]
    async fn work_that_ends_in_time_is_returned() {
        let work = async {
            tokio::time::sleep(Duration::from_millis(2500)).await;
            7
        };
        assert_eq!(within(Duration::from_secs(3), work).await, Some(7));
        assert_eq!(within(Duration::ZERO, std::future::pending::<()>()).await, None);
    }
}
