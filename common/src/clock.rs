//! The clocks of a process. Durations and deadlines use `Instant`, which never steps; the coordinator's lease also
//! counts the time in which the machine was suspended. The wall clock may step by hours, so that it is read here
//! alone, for times that people read.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

/// Environment variable with the path of a file whose content, in seconds, is added to the wall clock. Tests make the
/// clock jump with it.
pub const SHIFT_VARIABLE: &str = "LATENTFARM_TEST_CLOCK_SHIFT";

/// Returns the time since the machine started, including the time in which it was suspended.
pub fn since_boot() -> Duration {
    // The clock exists since Linux 2.6.39.
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from)
}

/// Returns the wall clock's time since the beginning of 1970.
pub fn since_1970() -> Duration {
    static SHIFT: OnceLock<Option<PathBuf>> = OnceLock::new();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let shift = SHIFT.get_or_init(|| std::env::var_os(SHIFT_VARIABLE).map(PathBuf::from));
    let text = shift.as_ref().and_then(|path| std::fs::read_to_string(path).ok());
    match text.and_then(|text| text.trim().parse::<i64>().ok()) {
        None => now,
        Some(seconds) if seconds < 0 => now.saturating_sub(Duration::from_secs(seconds.unsigned_abs())),
        Some(seconds) => now + Duration::from_secs(seconds.unsigned_abs()),
    }
}
