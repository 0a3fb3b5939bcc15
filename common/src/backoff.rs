//! Delays between tries that grow and are jittered, so that many clients do not come back in step.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

/// Doubles from a shortest to a longest delay; each delay is jittered downwards by up to a quarter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backoff {
    minimum: Duration,
    maximum: Duration,
    tries: u32,
}

impl Backoff {
    /// Delays from `minimum` to `maximum`.
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

    /// The delay before the next try.
    pub fn next_delay(&mut self) -> Duration {
        let delay = self.delay_of(self.tries, jitter());
        self.tries = self.tries.saturating_add(1);
        delay
    }

    /// The delay before try `tries`, counted from 0, for clients that count themselves.
    pub fn delay_for(&self, tries: usize) -> Duration {
        self.delay_of(u32::try_from(tries).unwrap_or(u32::MAX), jitter())
    }

    /// Starts again from the shortest delay, after a success.
    pub fn reset(&mut self) {
        self.tries = 0;
    }

    /// `jitter` in `0.0..1.0`.
    fn delay_of(&self, tries: u32, jitter: f64) -> Duration {
        let factor = 1_u32 << tries.min(30);
        let full = self.minimum.saturating_mul(factor).min(self.maximum);
        full.mul_f64(1.0 - jitter / 4.0)
    }
}

/// A number in `0.0..1.0` that differs between calls and processes; no better randomness is needed here.
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
}
