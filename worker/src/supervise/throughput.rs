//! The frames that a worker renders per second, over the last minute. The device monitor counts them for the
//! heartbeats.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The time over which frames are counted.
const SPAN: Duration = Duration::from_mins(1);
/// The shortest time that frames are divided by: over less, the throughput would be noise.
const SHORTEST: Duration = Duration::from_secs(1);

/// Counts frames as they are rendered.
#[derive(Debug)]
pub(super) struct Throughput {
    since: Instant,
    /// Frames, with the time at which they were counted; the oldest first.
    counts: VecDeque<(Instant, u32)>,
}

impl Throughput {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            since: now,
            counts: VecDeque::new(),
        }
    }

    pub(super) fn add(&mut self, now: Instant, frames: u32) {
        self.counts.push_back((now, frames));
        self.forget(now);
    }

    /// Returns frames per second over the last minute, or since the start if that is less.
    pub(super) fn per_second(&mut self, now: Instant) -> f32 {
        self.forget(now);
        let frames: u32 = self.counts.iter().map(|(_, frames)| frames).sum();
        let span = now.duration_since(self.since).clamp(SHORTEST, SPAN);
        frames as f32 / span.as_secs_f32()
    }

    fn forget(&mut self, now: Instant) {
        let is_old = |at: Instant| now.duration_since(at) > SPAN;
        while self.counts.front().is_some_and(|(at, _)| is_old(*at)) {
            self.counts.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_count_for_a_minute() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut throughput = Throughput::new(start);
        assert!(throughput.per_second(start).abs() < f32::EPSILON);
        throughput.add(after(10), 16);
        throughput.add(after(20), 16);
        assert!((throughput.per_second(after(20)) - 1.6).abs() < 1e-6);
        assert!((throughput.per_second(after(65)) - 32.0 / 60.0).abs() < 1e-6);
        assert!((throughput.per_second(after(75)) - 16.0 / 60.0).abs() < 1e-6);
        assert!(throughput.per_second(after(200)).abs() < f32::EPSILON);
    }
}
