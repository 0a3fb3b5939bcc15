//! How long the engine may send nothing before it counts as hung, learned from its requests on this device.
//! The engine client reads the limit before each request and records each request that succeeded.

use std::collections::BTreeMap;
use std::time::Duration;

use latentfarm_common::digest::Digest;
use latentfarm_common::wire::memory::MemoryPlan;

use super::oom_bounds::WindowShape;

/// The shortest limit that is learned: no engine counts as hung sooner.
const SHORTEST: Duration = Duration::from_mins(1);
/// The learned limit is so many times the longest silence.
const PATIENCE: u32 = 5;

/// Requests of one kind take about the same time. A digest names the weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum RequestKind {
    Load(Digest),
    Audio(Digest),
    Window { shape: WindowShape, plan: MemoryPlan },
}

/// The longest silence so far in each kind of request.
#[derive(Debug)]
pub(super) struct HangDetector {
    /// The limit for kinds of request of which none has succeeded yet.
    initial_limit: Duration,
    longest: BTreeMap<RequestKind, Duration>,
}

impl HangDetector {
    pub(super) fn new(initial_limit: Duration) -> Self {
        Self {
            initial_limit,
            longest: BTreeMap::new(),
        }
    }

    /// Returns how long the engine may send nothing during a request of this kind. An initial limit below the
    /// shortest learned one was set by an operator who wants hangs to be found sooner: it then bounds the
    /// learned one too.
    pub(super) fn silence_limit(&self, kind: RequestKind) -> Duration {
        match self.longest.get(&kind) {
            Some(longest) => (*longest * PATIENCE).max(SHORTEST.min(self.initial_limit)),
            None => self.initial_limit,
        }
    }

    /// Records the longest silence of a request that succeeded.
    pub(super) fn record(&mut self, kind: RequestKind, silence: Duration) {
        let longest = self.longest.entry(kind).or_default();
        *longest = silence.max(*longest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(plan: MemoryPlan) -> RequestKind {
        RequestKind::Window {
            shape: WindowShape {
                weights: Digest::of(b"weights"),
                resolution_px: 256,
                is_guided: false,
            },
            plan,
        }
    }

    #[test]
    fn a_known_request_may_be_silent_for_five_times_its_longest_and_a_minute_at_least() {
        let seconds = Duration::from_secs;
        let mut hang_detector = HangDetector::new(seconds(900));
        let kind = window(MemoryPlan::default());
        assert_eq!(
            hang_detector.silence_limit(kind),
            seconds(900),
            "nothing is known yet"
        );
        hang_detector.record(kind, seconds(2));
        assert_eq!(hang_detector.silence_limit(kind), seconds(60));
        hang_detector.record(kind, seconds(300));
        hang_detector.record(kind, seconds(1));
        assert_eq!(
            hang_detector.silence_limit(kind),
            seconds(1500),
            "a slow machine is not a hung one"
        );
        assert_eq!(
            hang_detector.silence_limit(window(MemoryPlan::Streamed)),
            seconds(900),
            "another plan has another limit"
        );
    }

    #[test]
    fn a_shorter_limit_that_the_operator_set_counts() {
        let mut hang_detector = HangDetector::new(Duration::from_secs(3));
        let kind = window(MemoryPlan::default());
        hang_detector.record(kind, Duration::from_millis(10));
        assert_eq!(hang_detector.silence_limit(kind), Duration::from_secs(3));
    }
}
