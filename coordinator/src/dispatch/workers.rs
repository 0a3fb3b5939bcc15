//! The workers that are known by their heartbeats and reports.

use std::collections::BTreeMap;
use std::time::Duration;

use latentfarm_common::ids::{ChunkId, JobId, Work, WorkerId};
use latentfarm_common::wire::outcome::{Heartbeat, TaskProgress, WorkerState};
use tokio::time::Instant;

/// Workers and when they were last heard.
#[derive(Debug)]
pub struct Workers {
    silence: Duration,
    known: BTreeMap<WorkerId, Heard>,
    /// When [`Workers::expire`] was last asked.
    looked: Option<Instant>,
}

#[derive(Debug)]
struct Heard {
    at: Instant,
    /// `None`: only a report of it came so far.
    heartbeat: Option<Heartbeat>,
}

/// A worker that is heard no more.
#[derive(Clone, Debug, PartialEq)]
pub struct Gone {
    pub worker: WorkerId,
    /// It had said that it was about to leave and held no task.
    pub expected: bool,
}

impl Workers {
    /// A worker counts as gone after `silence`.
    pub fn new(silence: Duration) -> Self {
        Self {
            silence,
            known: BTreeMap::new(),
            looked: None,
        }
    }

    /// Notes a heartbeat; true for a worker that was not known.
    pub fn hear(&mut self, heartbeat: Heartbeat, now: Instant) -> bool {
        let worker = heartbeat.worker.clone();
        let heard = Heard {
            at: now,
            heartbeat: Some(heartbeat),
        };
        self.known
            .insert(worker, heard)
            .is_none_or(|before| before.heartbeat.is_none())
    }

    /// Notes a report, so that a worker that dies before its first heartbeat is missed too.
    pub fn hear_of(&mut self, worker: &WorkerId, now: Instant) {
        let heard = self.known.entry(worker.clone()).or_insert(Heard {
            at: now,
            heartbeat: None,
        });
        heard.at = now;
    }

    /// Removes and returns the workers that fell silent. `listening` is false while the link is down; that
    /// time, and time in which this process did not run, is not counted against anyone.
    pub fn expire(&mut self, now: Instant, listening: bool) -> Vec<Gone> {
        let asleep = self.looked.is_some_and(|looked| now - looked > self.silence / 2);
        self.looked = Some(now);
        if asleep || !listening {
            for heard in self.known.values_mut() {
                heard.at = now;
            }
            return Vec::new();
        }
        let silence = self.silence;
        let (alive, silent) = std::mem::take(&mut self.known)
            .into_iter()
            .partition(|(_, heard)| now - heard.at < silence);
        self.known = alive;
        let is_leaving =
            |heartbeat: Heartbeat| heartbeat.state == WorkerState::Draining && heartbeat.task.is_none();
        silent
            .into_iter()
            .map(|(worker, heard): (WorkerId, Heard)| Gone {
                worker,
                expected: heard.heartbeat.is_some_and(is_leaving),
            })
            .collect()
    }

    /// Number of workers that take tasks or soon will.
    pub fn live(&self) -> usize {
        let takes_tasks = |state| match state {
            WorkerState::Starting | WorkerState::Idle | WorkerState::Working => true,
            WorkerState::Draining | WorkerState::Unfit => false,
        };
        let live = |heard: &&Heard| {
            heard
                .heartbeat
                .as_ref()
                .is_none_or(|heartbeat| takes_tasks(heartbeat.state))
        };
        self.known.values().filter(live).count()
    }

    /// Whether some worker says that it is at work on the chunk.
    pub fn hold(&self, chunk: ChunkId) -> bool {
        self.tasks().any(|task| task.chunk == chunk)
    }

    /// Frames finished in render chunks of `job` that are still under way: a heartbeat may be older than the
    /// done record of its chunk, so `is_done` tells.
    pub fn frames_under_way(&self, job: JobId, is_done: impl Fn(ChunkId) -> bool) -> u64 {
        let rendering = |task: &&TaskProgress| task.chunk.job == job && task.chunk.work == Work::Render;
        self.tasks()
            .filter(rendering)
            .filter(|task| !is_done(task.chunk))
            .map(|task| u64::from(task.frames_done))
            .sum()
    }

    fn tasks(&self) -> impl Iterator<Item = &TaskProgress> {
        let heartbeats = self.known.values().filter_map(|heard| heard.heartbeat.as_ref());
        heartbeats.filter_map(|heartbeat| heartbeat.task.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heartbeat(name: &str, state: WorkerState) -> Heartbeat {
        Heartbeat {
            worker: name.parse().unwrap(),
            state,
            device: "cpu".to_owned(),
            device_free_mib: 0,
            device_total_mib: 0,
            host_rss_mib: 0,
            task: None,
            finished: 0,
        }
    }

    const SILENCE: Duration = Duration::from_secs(10);
    const SECOND: Duration = Duration::from_secs(1);

    /// Asks every second, as the dispatcher does.
    fn expire_until(workers: &mut Workers, from: Instant, seconds: u32, listening: bool) -> Vec<Gone> {
        (1..=seconds)
            .flat_map(|second| workers.expire(from + SECOND * second, listening))
            .collect()
    }

    #[test]
    fn a_silent_worker_is_gone_after_ten_seconds_and_joins_again() {
        let start = Instant::now();
        let mut workers = Workers::new(SILENCE);
        assert!(workers.hear(heartbeat("w1", WorkerState::Working), start));
        assert!(!workers.hear(heartbeat("w1", WorkerState::Working), start));
        assert_eq!(expire_until(&mut workers, start, 9, true), []);
        let gone = expire_until(&mut workers, start, 10, true);
        assert_eq!(gone.len(), 1);
        assert!(!gone[0].expected);
        assert_eq!(workers.live(), 0);
        assert!(workers.hear(heartbeat("w1", WorkerState::Idle), start));
    }

    #[test]
    fn a_worker_that_dies_before_its_first_heartbeat_is_missed() {
        let start = Instant::now();
        let worker: WorkerId = "w1".parse().unwrap();
        let mut workers = Workers::new(SILENCE);
        workers.hear_of(&worker, start);
        assert_eq!(workers.live(), 1);
        let expected = false;
        assert_eq!(
            expire_until(&mut workers, start, 10, true),
            [Gone { worker, expected }]
        );
        workers.hear_of(&"w2".parse().unwrap(), start);
        assert!(
            workers.hear(heartbeat("w2", WorkerState::Idle), start),
            "it joins with its heartbeat"
        );
    }

    #[test]
    fn a_drained_worker_is_expected_to_leave() {
        let start = Instant::now();
        let mut workers = Workers::new(SILENCE);
        workers.hear(heartbeat("w1", WorkerState::Draining), start);
        assert_eq!(workers.live(), 0);
        assert!(expire_until(&mut workers, start, 10, true)[0].expected);
    }

    #[test]
    fn nobody_is_lost_while_nobody_listens() {
        let start = Instant::now();
        let mut workers = Workers::new(SILENCE);
        workers.hear(heartbeat("w1", WorkerState::Working), start);
        assert_eq!(expire_until(&mut workers, start, 60, false), []);
        let back = start + SECOND * 60;
        assert_eq!(expire_until(&mut workers, back, 9, true), []);
        // This process was stopped for an hour.
        assert_eq!(workers.expire(back + SECOND * 3600, true), []);
        assert_eq!(workers.live(), 1);
    }
}
