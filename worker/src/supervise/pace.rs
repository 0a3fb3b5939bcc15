//! How long an engine may say nothing: learned from what it did on this device.

use std::collections::BTreeMap;
use std::time::Duration;

use latentfarm_common::digest::Digest;
use latentfarm_common::wire::memory::MemoryPlan;

use super::lessons::Shape;

/// Nothing counts as hung sooner.
const SHORTEST: Duration = Duration::from_mins(1);
/// Times the longest silence seen.
const PATIENCE: u32 = 5;

/// Requests whose silences are alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Work {
    Load(Digest),
    Audio(Digest),
    Window { shape: Shape, plan: MemoryPlan },
}

/// The longest silence in each kind of work so far.
#[derive(Debug)]
pub(super) struct Pace {
    /// Of work that this worker has not finished once.
    unknown: Duration,
    longest: BTreeMap<Work, Duration>,
}

impl Pace {
    pub(super) fn new(unknown: Duration) -> Self {
        Self {
            unknown,
            longest: BTreeMap::new(),
        }
    }

    /// How long the engine may be silent at this work. A limit for unknown work that is shorter than the shortest
    /// one was set by someone who wants to know sooner.
    pub(super) fn limit(&self, work: Work) -> Duration {
        match self.longest.get(&work) {
            Some(longest) => (*longest * PATIENCE).max(SHORTEST.min(self.unknown)),
            None => self.unknown,
        }
    }

    /// The work came to its end, with this silence as its longest.
    pub(super) fn finished(&mut self, work: Work, silence: Duration) {
        let longest = self.longest.entry(work).or_default();
        *longest = silence.max(*longest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(plan: MemoryPlan) -> Work {
        Work::Window {
            shape: Shape {
                weights: Digest::of(b"weights"),
                resolution_px: 256,
                is_guided: false,
            },
            plan,
        }
    }

    #[test]
    fn known_work_may_be_silent_for_five_times_its_longest_and_a_minute_at_least() {
        let seconds = Duration::from_secs;
        let mut pace = Pace::new(seconds(900));
        let work = window(MemoryPlan::default());
        assert_eq!(pace.limit(work), seconds(900), "nothing is known yet");
        pace.finished(work, seconds(2));
        assert_eq!(pace.limit(work), seconds(60));
        pace.finished(work, seconds(300));
        pace.finished(work, seconds(1));
        assert_eq!(
            pace.limit(work),
            seconds(1500),
            "a slow machine is not a hung one"
        );
        assert_eq!(
            pace.limit(window(MemoryPlan::Streamed)),
            seconds(900),
            "another plan has another pace"
        );
    }

    #[test]
    fn a_shorter_limit_that_was_asked_for_counts() {
        let mut pace = Pace::new(Duration::from_secs(3));
        let work = window(MemoryPlan::default());
        pace.finished(work, Duration::from_millis(10));
        assert_eq!(pace.limit(work), Duration::from_secs(3));
    }
}
