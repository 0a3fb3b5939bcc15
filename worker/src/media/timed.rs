//! Measures how long each kind of work takes in total.

use std::time::Instant;

/// Does `work` and adds its wall time to `total_us`, in microseconds.
pub(super) fn timed<T>(total_us: &mut u64, work: impl FnOnce() -> T) -> T {
    let started = Instant::now();
    let result = work();
    *total_us += u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
    result
}
