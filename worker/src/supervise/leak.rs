//! An engine whose baseline grows window after window is replaced before it runs out of memory.

use latentfarm_common::wire::memory::MemorySample;

use super::drift::{Drift, Verdict};

/// The baselines of one engine process.
#[derive(Debug, Default)]
pub(super) struct Growth {
    drift: Drift,
    /// What grows, in words, once that is sure.
    found: Option<String>,
}

impl Growth {
    /// Takes the sample after a window's cleanup. Says once what grows.
    pub(super) fn after_window(&mut self, baseline: &MemorySample) {
        if let (Verdict::Leaking(leak), None) = (self.drift.push(baseline), &self.found) {
            tracing::warn!("the engine leaks and is restarted after this task: {leak}");
            self.found = Some(leak.to_string());
        }
    }

    pub(super) fn found(&self) -> Option<&str> {
        self.found.as_deref()
    }
}
