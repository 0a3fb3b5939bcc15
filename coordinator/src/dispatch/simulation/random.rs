//! The one source of randomness of a run, and the delays of the product under it.

use std::cell::RefCell;
use std::time::Duration;

/// A generator of numbers that depend on its seed alone (`SplitMix64`).
#[derive(Clone, Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number in `0..bound`, which is above 0.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// True so many times in a thousand.
    pub(super) fn chance(&mut self, per_mille: u64) -> bool {
        per_mille > 0 && self.below(1000) < per_mille
    }

    /// A number of `low..=high`.
    pub(super) fn within(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// A time of so many milliseconds.
    pub(super) fn ms(&mut self, low: u64, high: u64) -> Duration {
        Duration::from_millis(self.within(low, high))
    }

    /// One of some things, of which there is one at least.
    pub(super) fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        let index = self.below(from.len() as u64);
        from[usize::try_from(index).unwrap()].clone()
    }
}

thread_local! {
    static DELAYS: RefCell<Option<Random>> = const { RefCell::new(None) };
}

/// Has the delays of this thread depend on a seed from now on.
pub(super) fn seed_delays(seed: u64) {
    DELAYS.set(Some(Random::new(seed)));
}

/// The shortest delay of the product under the simulation; each is this many times a power of two.
const UNIT: Duration = Duration::from_millis(500);

/// Gives a delay another jitter, which depends on the seed, on a thread that simulates. Jitter makes a delay shorter by a
/// quarter at most, so that the delay without it is known.
pub(in crate::dispatch) fn repeatable(delay: Duration) -> Duration {
    DELAYS.with_borrow_mut(|random| {
        let Some(random) = random else { return delay };
        let units = u32::try_from(delay.as_micros().div_ceil(UNIT.as_micros())).unwrap();
        let full = UNIT * units.next_power_of_two();
        full / 4000 * u32::try_from(random.within(3001, 4000)).unwrap()
    })
}
