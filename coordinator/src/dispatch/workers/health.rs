//! Which workers fail what others finish. These are set aside: they get no task for a while, and then one to try.

use std::collections::BTreeMap;
use std::time::Duration;

use latentfarm_common::backoff::Backoff;
use latentfarm_common::ids::{ChunkId, WorkerId};
use latentfarm_common::tags::Tags;
use tokio::time::Instant;

use crate::dispatch::delay::drawn;

/// A worker that fails so many attempts in a row, while another one finishes chunks, is set aside.
const FAILURES_IN_A_ROW: u32 = 3;
/// So is one that failed so many chunks since its last success which another one has finished.
const REFUTED: u32 = 2;

/// How long a worker whose result was shown to be wrong gets no task, unless it is started anew before: it would make more
/// such results, and few of them are checked.
const WRONG_RESULT_PAUSE: Duration = Duration::from_hours(12);

/// Why an attempt ended whose worker is gone, or was started anew.
pub(in crate::dispatch) const VANISHED: &str = "it vanished in the middle of the task";

/// A worker that gets no task for now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::dispatch) struct SetAside {
    pub(in crate::dispatch) worker: WorkerId,
    pub(in crate::dispatch) reason: String,
    /// How long; `None` if the worker itself decides when it tries again.
    pub(in crate::dispatch) pause: Option<Duration>,
}

impl SetAside {
    /// What is the matter with the worker, as a clause that follows its name.
    pub(in crate::dispatch) fn describe(&self) -> String {
        let state = if self.pause.is_some() {
            "set aside"
        } else {
            "unfit"
        };
        format!("is {state}: {}", self.reason)
    }
}

/// The failures of all workers. Those of a worker are forgotten when it finishes a chunk.
#[derive(Debug)]
pub(super) struct Health {
    /// The pauses of a worker that fails again and again.
    pauses: Backoff,
    failing: BTreeMap<WorkerId, FailingWorker>,
    /// The workers whose results were shown to be wrong.
    wrong: BTreeMap<WorkerId, Pause>,
}

/// A worker that has not finished a chunk since its last failure.
#[derive(Debug, Default)]
struct FailingWorker {
    /// The chunks that it failed since it finished one, or since it was last set aside, each with the tags that its job
    /// needs.
    failed: BTreeMap<ChunkId, Tags>,
    in_a_row: u32,
    /// How many of `failed` another worker has finished.
    refuted: u32,
    /// Whether another worker, which could have been given one of those chunks, has finished one of the same kind of work
    /// meanwhile.
    others_finish: bool,
    /// Why the last attempt failed.
    last: String,
    times_set_aside: u32,
    set_aside: Option<Pause>,
}

#[derive(Debug)]
struct Pause {
    until: Instant,
    reason: String,
}

impl Health {
    pub(super) fn new(pauses: Backoff) -> Self {
        Self {
            pauses,
            failing: BTreeMap::new(),
            wrong: BTreeMap::new(),
        }
    }

    /// Records that an attempt failed on a worker; the chunk's job needs these tags. Returns the worker if it is set aside
    /// now. That is never done if no
    /// other worker `could_help`: the chunk may be at fault as well.
    pub(super) fn record_failure(
        &mut self,
        worker: &WorkerId,
        (chunk, needed): (ChunkId, &Tags),
        reason: &str,
        could_help: bool,
        now: Instant,
    ) -> Option<SetAside> {
        let failing = self.failing.entry(worker.clone()).or_default();
        failing.failed.insert(chunk, needed.clone());
        failing.in_a_row += 1;
        reason.clone_into(&mut failing.last);
        let is_out = self.wrong.contains_key(worker);
        let judged = (could_help && !is_out).then(|| failing.judge(worker, &self.pauses, now));
        judged.flatten()
    }

    /// Records that a worker with these tags finished a chunk. Returns the others that are set aside now, as they failed it.
    pub(super) fn record_success(
        &mut self,
        (worker, tags): (&WorkerId, &Tags),
        chunk: ChunkId,
        now: Instant,
    ) -> Vec<SetAside> {
        self.failing.remove(worker);
        let mut judged = Vec::new();
        for (other, failing) in &mut self.failing {
            let is_alike =
                |(failed, needed): (&ChunkId, &Tags)| failed.work == chunk.work && tags.cover(needed);
            failing.others_finish |= failing.failed.iter().any(is_alike);
            failing.refuted += u32::from(failing.failed.contains_key(&chunk));
            if self.wrong.contains_key(other) {
                continue;
            }
            judged.extend(failing.judge(other, &self.pauses, now));
        }
        judged
    }

    /// Sets a worker aside whose result was shown to be wrong, whatever else it finishes or fails.
    pub(super) fn record_wrong_result(&mut self, worker: &WorkerId, reason: &str, now: Instant) -> SetAside {
        let pause = Pause {
            until: now + WRONG_RESULT_PAUSE,
            reason: reason.to_owned(),
        };
        self.wrong.insert(worker.clone(), pause);
        SetAside {
            worker: worker.clone(),
            reason: reason.to_owned(),
            pause: Some(WRONG_RESULT_PAUSE),
        }
    }

    /// Whether a result of the worker was shown to be wrong, and its pause is not over.
    pub(super) fn gives_wrong_results(&self, worker: &WorkerId) -> bool {
        self.wrong.contains_key(worker)
    }

    /// Ends the pause of a worker that was started anew. It has a single try, as after any pause. Returns whether there was
    /// one.
    pub(super) fn end_pause(&mut self, worker: &WorkerId) -> bool {
        let was_wrong = self.wrong.remove(worker).is_some();
        let failing = self.failing.get_mut(worker);
        failing.is_some_and(|failing| failing.set_aside.take().is_some()) || was_wrong
    }

    /// Why the worker is set aside, and for how long still; `None` if it is not.
    pub(super) fn set_aside(&self, worker: &WorkerId, now: Instant) -> Option<SetAside> {
        let failing = || self.failing.get(worker)?.set_aside.as_ref();
        let pause = self.wrong.get(worker).or_else(failing)?;
        let left = pause.until.checked_duration_since(now)?;
        Some(SetAside {
            worker: worker.clone(),
            reason: pause.reason.clone(),
            pause: Some(left),
        })
    }

    /// Ends the pauses that are over. Returns whether there were any.
    pub(super) fn end_pauses(&mut self, now: Instant) -> bool {
        let mut any = self.wrong.extract_if(.., |_, pause| pause.until <= now).count() > 0;
        for failing in self.failing.values_mut() {
            any |= failing.set_aside.take_if(|pause| pause.until <= now).is_some();
        }
        any
    }
}

impl FailingWorker {
    /// Sets the worker aside if it fails what others finish. One that was set aside before has a single try.
    fn judge(&mut self, worker: &WorkerId, pauses: &Backoff, now: Instant) -> Option<SetAside> {
        let is_alone_in_failing = self.in_a_row >= FAILURES_IN_A_ROW && self.others_finish;
        let has_failed_its_try = self.times_set_aside > 0 && self.in_a_row > 0;
        if self.set_aside.is_some() || !(is_alone_in_failing || has_failed_its_try || self.refuted >= REFUTED)
        {
            return None;
        }
        let pause = drawn(pauses.delay_for(self.times_set_aside as usize));
        let noun = if self.in_a_row == 1 { "attempt" } else { "attempts" };
        let reason = format!(
            "it failed {} {noun} in a row while others finish theirs; the last one: {}",
            self.in_a_row, self.last
        );
        self.times_set_aside += 1;
        (self.in_a_row, self.refuted) = (0, 0);
        self.failed.clear();
        self.set_aside = Some(Pause {
            until: now + pause,
            reason: reason.clone(),
        });
        Some(SetAside {
            worker: worker.clone(),
            reason,
            pause: Some(pause),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use latentfarm_common::digest::Digest;
    use latentfarm_common::ids::{JobId, WorkKind};

    const MINUTE: Duration = Duration::from_mins(1);

    fn chunk(index: u32) -> ChunkId {
        ChunkId {
            job: JobId::from_digest(&Digest::of(b"job")),
            work: WorkKind::Render,
            index,
        }
    }

    fn named(name: &str) -> WorkerId {
        name.parse().unwrap()
    }

    /// Health, with the failures of `bad` at chunks of these indices, which set nobody aside.
    fn after_failures(indices: &[u32], now: Instant) -> Health {
        let mut health = Health::new(Backoff::new(MINUTE, 10 * MINUTE));
        for index in indices {
            let judged = health.record_failure(
                &named("bad"),
                (chunk(*index), &Tags::NONE),
                "no kernel",
                true,
                now,
            );
            assert_eq!(judged, None, "nobody else has finished anything");
        }
        health
    }

    #[tokio::test]
    async fn a_worker_that_fails_while_others_finish_is_set_aside_with_growing_pauses() {
        let now = Instant::now();
        let mut health = after_failures(&[1, 2, 3], now);
        let judged = health.record_success((&named("good"), &Tags::NONE), chunk(9), now);
        assert_eq!(judged.len(), 1);
        assert_eq!(
            judged[0].describe(),
            "is set aside: it failed 3 attempts in a row while others finish theirs; the last one: no kernel"
        );
        // Pauses are shortened by up to a quarter.
        assert!(judged[0].pause.unwrap() > MINUTE / 2 && judged[0].pause.unwrap() <= MINUTE);
        assert!(health.set_aside(&named("bad"), now).is_some());
        assert!(!health.end_pauses(now + MINUTE / 2));
        assert!(health.end_pauses(now + MINUTE));
        // It has one try.
        let later = now + MINUTE;
        assert_eq!(health.set_aside(&named("bad"), later), None);
        let again = health.record_failure(&named("bad"), (chunk(4), &Tags::NONE), "no kernel", true, later);
        assert!(again.unwrap().pause > Some(MINUTE), "the second pause is longer");
        // What it finishes after the next pause clears it.
        health.end_pauses(later + 2 * MINUTE);
        health.record_success((&named("bad"), &Tags::NONE), chunk(5), later);
        assert_eq!(
            health.record_failure(&named("bad"), (chunk(6), &Tags::NONE), "x", true, later),
            None
        );
    }

    #[tokio::test]
    async fn a_worker_whose_result_was_wrong_stays_out_whatever_else_it_does_until_it_is_started_anew() {
        let now = Instant::now();
        let mut health = after_failures(&[1, 2], now);
        let out = health.record_wrong_result(&named("bad"), "its frames are wrong", now);
        assert_eq!(
            (out.reason.as_str(), out.pause),
            ("its frames are wrong", Some(WRONG_RESULT_PAUSE))
        );
        assert_eq!(
            health.record_success((&named("good"), &Tags::NONE), chunk(1), now),
            []
        );
        assert_eq!(
            health.record_success((&named("good"), &Tags::NONE), chunk(2), now),
            []
        );
        health.record_success((&named("bad"), &Tags::NONE), chunk(3), now);
        let failed = health.record_failure(&named("bad"), (chunk(4), &Tags::NONE), "no kernel", true, now);
        assert_eq!(failed, None, "it is out already");
        let still = health.set_aside(&named("bad"), now + MINUTE).unwrap();
        assert_eq!(still.reason, "its frames are wrong");
        assert!(health.gives_wrong_results(&named("bad")));
        assert!(health.end_pause(&named("bad")) && !health.gives_wrong_results(&named("bad")));
        assert_eq!(health.set_aside(&named("bad"), now), None);
        health.record_wrong_result(&named("bad"), "its frames are wrong", now);
        assert!(!health.end_pauses(now + WRONG_RESULT_PAUSE / 2));
        assert!(health.end_pauses(now + WRONG_RESULT_PAUSE));
    }

    #[tokio::test]
    async fn two_chunks_that_another_worker_finishes_are_enough() {
        let now = Instant::now();
        let mut health = after_failures(&[1, 2], now);
        assert_eq!(
            health.record_success((&named("good"), &Tags::NONE), chunk(1), now),
            []
        );
        assert_eq!(
            health
                .record_success((&named("good"), &Tags::NONE), chunk(2), now)
                .len(),
            1
        );
    }

    #[tokio::test]
    async fn a_worker_is_not_set_aside_for_what_nobody_finishes_or_if_nobody_else_could_help() {
        let now = Instant::now();
        after_failures(&[1; 20], now);
        let mut health = after_failures(&[1, 2], now);
        health.record_success((&named("good"), &Tags::NONE), chunk(9), now);
        let alone = health.record_failure(&named("bad"), (chunk(3), &Tags::NONE), "no kernel", false, now);
        assert_eq!(alone, None);
    }

    #[tokio::test]
    async fn a_worker_is_not_set_aside_by_those_who_could_not_be_given_its_chunks() {
        let now = Instant::now();
        let (eu, both) = (
            Tags::from("eu".parse().ok()),
            Tags::new(["eu", "us"].map(|tag| tag.parse().unwrap())).unwrap(),
        );
        let mut health = Health::new(Backoff::new(MINUTE, 10 * MINUTE));
        for index in 1..=3 {
            let failed = (chunk(index), &eu);
            let judged = health.record_failure(&named("bad"), failed, "no kernel", false, now);
            assert_eq!(judged, None, "nobody else has the tag");
        }
        // Others finish chunks of jobs that need no tag.
        assert_eq!(
            health.record_success((&named("good"), &Tags::NONE), chunk(9), now),
            []
        );
        let judged = health.record_success((&named("better"), &both), chunk(8), now);
        assert_eq!(judged.len(), 1, "this one could have been given them");
    }
}
