//! Delays between the tries of one operation. They grow and are jittered, so that many clients do not return
//! at the same moment. Everything that uses NATS retries with them.

use std::error::Error;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use tokio::time::Instant;

use crate::error::one_line;

/// Delays that double from a shortest to a longest one; each is jittered downwards by up to a quarter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backoff {
    minimum: Duration,
    maximum: Duration,
    tries: u32,
}

impl Backoff {
    /// Makes delays from `minimum` to `maximum`.
    ///
    /// # Panics
    /// Unless `0 < minimum <= maximum`. In a constant, which most are, it does not compile.
    pub const fn new(minimum: Duration, maximum: Duration) -> Self {
        assert!(!minimum.is_zero(), "the shortest delay must be above zero");
        assert!(
            minimum.as_nanos() <= maximum.as_nanos(),
            "the longest delay is below the shortest"
        );
        Self {
            minimum,
            maximum,
            tries: 0,
        }
    }

    /// Returns the delay before the next try, and counts that try.
    pub fn next_delay(&mut self) -> Duration {
        let delay = self.delay_of(self.tries, jitter());
        self.tries = self.tries.saturating_add(1);
        delay
    }

    /// Returns the delay before try number `tries`, counted from 0, for clients that count their tries
    /// themselves.
    pub fn delay_for(&self, tries: usize) -> Duration {
        self.delay_of(u32::try_from(tries).unwrap_or(u32::MAX), jitter())
    }

    /// Goes back to the shortest delay, after a success.
    pub fn reset(&mut self) {
        self.tries = 0;
    }

    /// Returns the delay of a try; `jitter` is in `0.0..1.0`.
    fn delay_of(&self, tries: u32, jitter: f64) -> Duration {
        let factor = 1_u32 << tries.min(30);
        let full = self.minimum.saturating_mul(factor).min(self.maximum);
        full.mul_f64(1.0 - jitter / 4.0)
    }
}

/// The limit at which an operation that keeps failing is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryLimit {
    /// The operation is tried this many times in all.
    Tries(u32),
    /// A try begins if less than this time has passed since the first one.
    For(Duration),
    /// The operation is tried until it succeeds.
    Forever,
}

/// The tries of one operation, up to a limit.
#[derive(Debug)]
pub struct Retry {
    backoff: Backoff,
    limit: RetryLimit,
    started: Instant,
}

impl Retry {
    /// Begins with the first try, now.
    pub fn new(backoff: Backoff, limit: RetryLimit) -> Self {
        Self {
            backoff,
            limit,
            started: Instant::now(),
        }
    }

    /// Whether no try has failed yet.
    pub fn is_first(&self) -> bool {
        self.backoff.tries == 0
    }

    /// Logs the error of a try and waits until the next one is due.
    ///
    /// # Errors
    /// Returns `error` at once if the limit allows no further try.
    pub async fn after<E: Error + 'static>(&mut self, error: E) -> Result<(), E> {
        let text = one_line(&error);
        let delay = self.next(error)?;
        tracing::warn!(error = text, ?delay, "an operation failed and is tried again");
        tokio::time::sleep(delay).await;
        Ok(())
    }

    /// Waits until the next try is due, like [`Retry::after`], without a line in the log.
    ///
    /// # Errors
    /// Returns `error` at once if the limit allows no further try.
    pub async fn pause<E>(&mut self, error: E) -> Result<(), E> {
        let delay = self.next(error)?;
        tokio::time::sleep(delay).await;
        Ok(())
    }

    /// Counts a failed try and returns the delay before the next one, or `error` if the limit allows none.
    fn next<E>(&mut self, error: E) -> Result<Duration, E> {
        let delay = self.backoff.next_delay();
        let may_go_on = match self.limit {
            RetryLimit::Tries(tries) => self.backoff.tries < tries,
            RetryLimit::For(limit) => self.started.elapsed() + delay < limit,
            RetryLimit::Forever => true,
        };
        if may_go_on { Ok(delay) } else { Err(error) }
    }
}

/// Returns a number in `0.0..1.0` that differs between calls and processes. No better randomness is needed
/// here.
fn jitter() -> f64 {
    let bits = RandomState::new().build_hasher().finish() >> 11;
    bits as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn delays_stay_in_bounds_and_never_shrink(
            minimum_ms in 1_u64..10_000, extra_ms in 0_u64..1_000_000, tries in 0_u32..100, jitter in 0.0..1.0_f64,
        ) {
            let minimum = Duration::from_millis(minimum_ms);
            let maximum = minimum + Duration::from_millis(extra_ms);
            let backoff = Backoff::new(minimum, maximum);
            let delay = backoff.delay_of(tries, jitter);
            prop_assert!(delay >= minimum.mul_f64(0.75));
            prop_assert!(delay <= maximum);
            prop_assert!(backoff.delay_of(tries + 1, jitter) >= delay);
        }
    }

    #[test]
    #[should_panic(expected = "the shortest delay must be above zero")]
    fn a_delay_of_nothing_is_refused() {
        Backoff::new(Duration::ZERO, Duration::from_millis(2));
    }

    #[test]
    #[should_panic(expected = "the longest delay is below the shortest")]
    fn impossible_bounds_are_refused() {
        Backoff::new(Duration::from_millis(2), Duration::from_millis(1));
    }

    #[test]
    fn a_success_starts_it_again() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
        for _ in 0..5 {
            backoff.next_delay();
        }
        assert!(backoff.next_delay() > Duration::from_secs(1));
        backoff.reset();
        assert!(backoff.next_delay() <= Duration::from_millis(100));
    }

    #[tokio::test(start_paused = true)]
    async fn tries_end_at_their_limit() {
        let delays = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        let failed = || std::io::Error::other("not yet");
        let mut three = Retry::new(delays.clone(), RetryLimit::Tries(3));
        assert!(three.is_first());
        assert!(three.after(failed()).await.is_ok());
        assert!(!three.is_first());
        assert!(three.after(failed()).await.is_ok());
        assert!(three.after(failed()).await.is_err(), "three tries have failed");

        let mut brief = Retry::new(delays.clone(), RetryLimit::For(Duration::from_secs(5)));
        while brief.after(failed()).await.is_ok() {}
        let passed = brief.started.elapsed();
        assert!(
            passed > Duration::from_secs(3) && passed < Duration::from_secs(5),
            "{passed:?}"
        );

        let mut once = Retry::new(delays, RetryLimit::Tries(1));
        assert!(once.after(failed()).await.is_err());
    }
}
