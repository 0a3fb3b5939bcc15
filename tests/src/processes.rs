//! Finds every process that a test has started, even if its parent has ended.

use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

const VARIABLE: &str = "LATENTFARM_TEST_TAG";

/// Waits until `moment`. It is for tests in which time itself is what happens.
pub fn wait_until(moment: Instant) {
    while let Some(left) = moment.checked_duration_since(Instant::now()) {
        std::thread::park_timeout(left);
    }
}

/// Looks fifty times a second until there is something to see, for half a minute at most.
#[track_caller]
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < deadline, "never happened: {what}");
        wait_until(Instant::now() + Duration::from_millis(20));
    }
}

/// The value of an environment variable that all descendants of a test's processes inherit.
#[derive(Clone, Debug)]
pub struct ProcessTag(String);

impl ProcessTag {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        Self(format!(
            "{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        ))
    }

    pub fn env(&self) -> (&'static str, &str) {
        (VARIABLE, &self.0)
    }

    /// Returns the ids and command lines of live processes with this tag.
    pub fn processes(&self) -> Vec<(i32, String)> {
        let mark = format!("{VARIABLE}={}", self.0);
        let entries = fs::read_dir("/proc").expect("/proc");
        let mut found: Vec<(i32, String)> = entries
            .filter_map(|entry| {
                let pid: i32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
                let environ = fs::read(format!("/proc/{pid}/environ")).ok()?;
                let is_ours = environ
                    .split(|&byte| byte == 0)
                    .any(|variable| variable == mark.as_bytes());
                let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
                // A zombie has an empty command line.
                (is_ours && !command.is_empty())
                    .then(|| (pid, String::from_utf8_lossy(&command).replace('\0', " ")))
            })
            .collect();
        found.sort_unstable();
        found
    }

    /// Returns the ids of the processes whose command line contains `part`.
    pub fn matching(&self, part: &str) -> Vec<i32> {
        self.processes()
            .into_iter()
            .filter(|(_, command)| command.contains(part))
            .map(|(pid, _)| pid)
            .collect()
    }

    /// Panics if any process with this tag is still alive after a grace period.
    pub fn assert_nothing_left(&self) {
        let deadline = Instant::now() + Duration::from_secs(15);
        loop {
            let left = self.processes();
            if left.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "left running: {left:#?}");
            std::thread::yield_now();
        }
    }
}

impl Default for ProcessTag {
    fn default() -> Self {
        Self::new()
    }
}
