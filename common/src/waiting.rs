//! Reports of waits. Whoever waits says for what after [`FIRST_REPORT`], and then every [`REPORT_INTERVAL`]:
//! the dispatcher, the worker's loop, and whoever connects to the farm's server. A party that looks at its
//! state now and then uses a [`WaitReporter`]; one that awaits a single future uses [`reporting`].

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

/// A wait is first reported when it has lasted this long.
pub const FIRST_REPORT: Duration = Duration::from_secs(10);
/// The time between two reports of one wait.
pub const REPORT_INTERVAL: Duration = Duration::from_mins(1);

/// The waits of one party, which waits for one kind of thing at a time.
#[derive(Debug)]
pub struct WaitReporter<K> {
    wait: Option<Wait<K>>,
}

/// A wait that goes on.
#[derive(Debug)]
struct Wait<K> {
    kind: K,
    since: Instant,
    next_report: Instant,
    is_reported: bool,
}

/// What is to be reported now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitReport<K> {
    /// The wait has lasted this long and goes on.
    GoesOn(Duration),
    /// A wait that was reported is over.
    Over {
        /// What was waited for.
        kind: K,
        /// How long it was waited for.
        waited: Duration,
    },
}

impl<K> Default for WaitReporter<K> {
    fn default() -> Self {
        Self { wait: None }
    }
}

impl<K: Copy + PartialEq> WaitReporter<K> {
    /// Records what is waited for at this time, `None` if nothing is. Returns what is to be reported now, if
    /// anything is.
    pub fn observe(&mut self, kind: Option<K>, now: Instant) -> Option<WaitReport<K>> {
        let Some(kind) = kind else {
            let ended = self.wait.take().filter(|wait| wait.is_reported)?;
            return Some(WaitReport::Over {
                kind: ended.kind,
                waited: now - ended.since,
            });
        };
        let wait = self.wait.get_or_insert(Wait {
            kind,
            since: now,
            next_report: now + FIRST_REPORT,
            is_reported: false,
        });
        if wait.kind != kind {
            // A report that is due sooner is not put off, so that two causes that take turns are not silent.
            wait.next_report = wait.next_report.min(now + FIRST_REPORT);
            (wait.kind, wait.since) = (kind, now);
        }
        if now < wait.next_report {
            return None;
        }
        wait.next_report = now + REPORT_INTERVAL;
        wait.is_reported = true;
        Some(WaitReport::GoesOn(now - wait.since))
    }
}

/// Runs `work` to its end, and calls `report` with the time that has passed whenever a report is due.
pub async fn reporting<T>(work: impl Future<Output = T>, mut report: impl FnMut(Duration)) -> T {
    let started = Instant::now();
    let mut next_report = started + FIRST_REPORT;
    tokio::pin!(work);
    loop {
        if let Ok(output) = timeout_at(next_report, &mut work).await {
            return output;
        }
        report(started.elapsed());
        next_report = Instant::now() + REPORT_INTERVAL;
    }
}

/// Formats a time for people: `12 s`, `3 min` or `2.5 h`.
pub fn rough_time(time: Duration) -> String {
    match time.as_secs_f64() {
        s if s < 90.0 => format!("{s:.0} s"),
        s if s < 5400.0 => format!("{:.0} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.1} h", s / 3600.0),
        s => format!("{:.0} days", s / 86_400.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Observes a wait once a second, and returns the seconds at which something was reported.
    fn reported(
        reporter: &mut WaitReporter<&'static str>,
        seconds: std::ops::Range<u32>,
        start: Instant,
        kind: impl Fn(u32) -> Option<&'static str>,
    ) -> Vec<u32> {
        let due = |second: &u32| {
            let report = reporter.observe(kind(*second), start + SECOND * *second);
            matches!(report, Some(WaitReport::GoesOn(_)))
        };
        seconds.filter(due).collect()
    }

    #[test]
    fn a_wait_is_reported_after_ten_seconds_and_then_every_minute_until_it_is_over() {
        let (start, mut reporter) = (Instant::now(), WaitReporter::default());
        let at = reported(&mut reporter, 0..200, start, |_| Some("memory"));
        assert_eq!(at, [10, 70, 130, 190]);
        let kind = "memory";
        let over = reporter.observe(None, start + SECOND * 200);
        let waited = SECOND * 200;
        assert_eq!(over, Some(WaitReport::Over { kind, waited }));
        assert_eq!(reporter.observe(None, start + SECOND * 201), None, "once");
    }

    #[test]
    fn a_short_wait_is_not_reported_and_leaves_nothing_behind() {
        let (start, mut reporter) = (Instant::now(), WaitReporter::default());
        let busy_at_9 = |second| (second % 10 != 9).then_some("a task");
        assert_eq!(
            reported(&mut reporter, 0..100, start, busy_at_9),
            Vec::<u32>::new()
        );
        reporter.observe(Some("a task"), start + SECOND * 100);
        assert_eq!(
            reporter.observe(None, start + SECOND * 105),
            None,
            "its end is not reported either"
        );
    }

    #[test]
    fn causes_that_take_turns_are_reported_too_and_a_new_one_within_ten_seconds() {
        let (start, mut reporter) = (Instant::now(), WaitReporter::default());
        let turns = |second: u32| {
            Some(if second.is_multiple_of(2) {
                "memory"
            } else {
                "a worker"
            })
        };
        assert_eq!(
            reported(&mut reporter, 0..31, start, turns),
            [10, 21],
            "at most once in ten seconds"
        );
        let mut reporter = WaitReporter::default();
        let second = |second| Some(if second < 20 { "a worker" } else { "memory" });
        assert_eq!(reported(&mut reporter, 0..100, start, second), [10, 30, 90]);
        let (kind, waited) = ("memory", SECOND * 85);
        let over = reporter.observe(None, start + SECOND * 105);
        assert_eq!(
            over,
            Some(WaitReport::Over { kind, waited }),
            "counted from the new cause on"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_future_that_takes_long_is_reported_while_it_runs() {
        let mut at = Vec::new();
        let work = tokio::time::sleep(Duration::from_secs(150));
        reporting(work, |waited| at.push(waited.as_secs())).await;
        assert_eq!(at, [10, 70, 130]);
        reporting(tokio::time::sleep(9 * SECOND), |_| panic!("nothing is due")).await;
    }

    #[test]
    fn times_are_rounded_for_people() {
        let texts = [10, 600, 9000].map(|seconds| rough_time(Duration::from_secs(seconds)));
        assert_eq!(texts, ["10 s", "10 min", "2.5 h"]);
    }
}
