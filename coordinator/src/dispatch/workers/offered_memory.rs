//! What a worker offers of its memory, over a while. The workers' records keep it, and update it with each heartbeat.

use std::time::Duration;

use tokio::time::Instant;

/// The memory of one kind that a worker offers, less what other programs hold, in MiB. It is the highest
/// value of the last one to two grace periods: a process that comes and goes does not lower it, a process
/// that stays does.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct OfferedMemory {
    since: Option<Instant>,
    best: u64,
    best_before: u64,
}

impl OfferedMemory {
    pub(super) fn note(&mut self, available_mib: u64, grace_period: Duration, now: Instant) {
        let is_within = |span: Duration| self.since.is_some_and(|since| now - since < span);
        if is_within(grace_period) {
            self.best = self.best.max(available_mib);
            return;
        }
        // If no heartbeat came for a whole period, the value of the period before is out of date.
        self.best_before = if is_within(grace_period * 2) {
            self.best
        } else {
            available_mib
        };
        self.best = available_mib;
        self.since = Some(now);
    }

    pub(super) fn best(&self) -> u64 {
        self.best.max(self.best_before)
    }
}
