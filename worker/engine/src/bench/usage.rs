//! Peak memory and processor time of a part while it runs in this process.

use procfs::process::{ClearRefs, Process, Status};

/// Resident bytes when a gauge was started, and their peak until it was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct MemoryUse {
    pub(super) baseline_bytes: u64,
    pub(super) peak_bytes: u64,
    /// True if the peak is that since the gauge was started, false if it is that since the process began.
    pub(super) peak_was_reset: bool,
}

/// Measures the peak of resident memory from [`MemoryGauge::start`] to [`MemoryGauge::finish`].
pub(super) struct MemoryGauge {
    baseline_bytes: u64,
    was_reset: bool,
}

impl MemoryGauge {
    /// Resets the kernel's record of this process's peak to what the process holds now, if the kernel allows
    /// it.
    pub(super) fn start() -> Self {
        let was_reset = Process::myself()
            .and_then(|process| process.clear_refs(ClearRefs::PeakRSS))
            .is_ok();
        Self {
            baseline_bytes: status_bytes(|status| status.vmrss),
            was_reset,
        }
    }

    pub(super) fn finish(&self) -> MemoryUse {
        MemoryUse {
            baseline_bytes: self.baseline_bytes,
            peak_bytes: status_bytes(|status| status.vmhwm),
            peak_was_reset: self.was_reset,
        }
    }
}

/// Returns the bytes of one figure, which the kernel gives in KiB, of this process's status; 0 if it is
/// missing.
fn status_bytes(figure: impl FnOnce(Status) -> Option<u64>) -> u64 {
    let status = Process::myself().and_then(|process| process.status());
    status.ok().and_then(figure).unwrap_or(0) * 1024
}

/// Returns the seconds that all threads of this process have computed so far, to one tick of the kernel's
/// clock.
pub(super) fn cpu_seconds() -> f64 {
    let stat = Process::myself().and_then(|process| process.stat());
    let ticks = stat.map_or(0, |stat| stat.utime + stat.stime);
    ticks as f64 / procfs::ticks_per_second() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_passes_while_this_process_computes() {
        let (started, before) = (std::time::Instant::now(), cpu_seconds());
        let mut sum = 0_u64;
        while cpu_seconds() - before < 0.02 {
            sum = std::hint::black_box(sum + 1);
            assert!(started.elapsed().as_secs() < 60, "no processor time in a minute");
        }
        assert!(cpu_seconds() < 3600.0);
    }

    #[test]
    fn a_peak_that_has_passed_is_measured_and_reset() {
        const BYTES: usize = 96 << 20;
        let gauge = MemoryGauge::start();
        drop(std::hint::black_box(vec![1_u8; BYTES]));
        let seen = gauge.finish();
        assert!(
            seen.peak_bytes >= seen.baseline_bytes + (BYTES as u64 * 9 / 10),
            "{seen:?}"
        );
        if seen.peak_was_reset {
            let after = MemoryGauge::start().finish();
            assert!(after.peak_bytes < seen.peak_bytes, "{after:?} after {seen:?}");
        }
    }
}
