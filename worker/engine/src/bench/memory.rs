//! Peak memory and processor time of a stretch of this process's life.

use std::fs;

/// Resident bytes where a stretch began, and their peak since.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Memory {
    pub(super) baseline_bytes: u64,
    pub(super) peak_bytes: u64,
    /// Whether the peak is of the stretch alone; else it is of the process from its start.
    pub(super) peak_was_reset: bool,
}

/// Watches from [`Gauge::start`] on.
pub(super) struct Gauge {
    baseline_bytes: u64,
    was_reset: bool,
}

impl Gauge {
    /// Sets the kernel's record of this process's peak back to what it holds now, where that is allowed.
    pub(super) fn start() -> Self {
        let was_reset = fs::write("/proc/self/clear_refs", "5").is_ok();
        Self {
            baseline_bytes: status_bytes("VmRSS:"),
            was_reset,
        }
    }

    pub(super) fn finish(&self) -> Memory {
        Memory {
            baseline_bytes: self.baseline_bytes,
            peak_bytes: status_bytes("VmHWM:"),
            peak_was_reset: self.was_reset,
        }
    }
}

/// Bytes of a `Key:  N kB` line of `/proc/self/status`; 0 where there is none.
fn status_bytes(key: &str) -> u64 {
    let text = fs::read_to_string("/proc/self/status").unwrap_or_default();
    text.lines()
        .find_map(|line| {
            line.strip_prefix(key)?
                .trim()
                .strip_suffix(" kB")?
                .parse::<u64>()
                .ok()
        })
        .unwrap_or(0)
        * 1024
}

/// Seconds that all threads of this process have computed so far, in steps of 0.01 s.
pub(super) fn cpu_seconds() -> f64 {
    /// The kernel's unit in this file, the same on every architecture.
    const TICKS_PER_SECOND: f64 = 100.0;
    let text = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The program's name stands in parentheses and may hold spaces. User and system time are the 14th and 15th.
    let after_name = text.rsplit(')').next().unwrap_or_default();
    let times = after_name.split_whitespace().skip(11).take(2);
    times.filter_map(|field| field.parse::<f64>().ok()).sum::<f64>() / TICKS_PER_SECOND
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
    fn a_peak_that_has_passed_is_seen_and_then_forgotten() {
        const BYTES: usize = 96 << 20;
        let gauge = Gauge::start();
        drop(std::hint::black_box(vec![1_u8; BYTES]));
        let seen = gauge.finish();
        assert!(
            seen.peak_bytes >= seen.baseline_bytes + (BYTES as u64 * 9 / 10),
            "{seen:?}"
        );
        if seen.peak_was_reset {
            let after = Gauge::start().finish();
            assert!(after.peak_bytes < seen.peak_bytes, "{after:?} after {seen:?}");
        }
    }
}
