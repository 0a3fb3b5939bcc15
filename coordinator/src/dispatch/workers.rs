//! The workers of the farm, which the dispatcher knows from their heartbeats and reports.

use std::collections::BTreeMap;
use std::time::Duration;

use latentfarm_common::ids::{ChunkId, JobId, WorkKind, WorkerId};
use latentfarm_common::wire::memory::RenderMemory;
use latentfarm_common::wire::outcome::{Heartbeat, TaskProgress, WorkerState};
use tokio::time::Instant;

use crate::placement::WorkerCapacity;

/// The known workers, with the last heartbeat of each.
#[derive(Debug)]
pub(super) struct Workers {
    timeout: Duration,
    /// Device memory that other processes have held for this long no longer counts as available.
    tenant_grace_period: Duration,
    known: BTreeMap<WorkerId, WorkerRecord>,
    /// The time of the last call of [`Workers::expire`].
    last_expiry: Option<Instant>,
    /// Whether the offered memory has changed since the last call of [`Workers::take_changed`].
    changed: bool,
}

#[derive(Debug)]
struct WorkerRecord {
    last_seen: Instant,
    /// The last heartbeat; `None` if the worker has only reported an event so far.
    heartbeat: Option<Heartbeat>,
    device: DeviceMemory,
}

impl WorkerRecord {
    fn state(&self) -> Option<WorkerState> {
        self.heartbeat.as_ref().map(|heartbeat| heartbeat.state)
    }

    /// The memory that the worker offers to render tasks; `None` if it accepts none.
    fn machine(&self) -> Option<WorkerCapacity> {
        let heartbeat = self.heartbeat.as_ref()?;
        let RenderMemory { host_mib, device_mib } = heartbeat.capacity;
        let renders = heartbeat.capacity != RenderMemory::default();
        (renders && takes_tasks(heartbeat.state)).then(|| WorkerCapacity {
            worker: heartbeat.worker.clone(),
            capacity: RenderMemory {
                host_mib,
                device_mib: device_mib.map(|mib| mib.min(self.device.best())),
            },
        })
    }
}

/// A worker that was removed, because its heartbeats stopped or because it has left.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct DepartedWorker {
    pub worker: WorkerId,
    /// The worker had announced that it leaves, and held no task.
    pub announced: bool,
}

impl Workers {
    /// A worker counts as lost when it has sent nothing for `timeout`.
    pub(super) fn new(timeout: Duration, tenant_grace_period: Duration) -> Self {
        Self {
            timeout,
            tenant_grace_period,
            known: BTreeMap::new(),
            last_expiry: None,
            changed: false,
        }
    }

    /// Records a heartbeat, and returns whether it is the worker's first.
    pub(super) fn record_heartbeat(&mut self, heartbeat: Heartbeat, now: Instant) -> bool {
        let grace_period = self.tenant_grace_period;
        let known = self.mark_seen(&heartbeat.worker, now);
        let offered = known.machine();
        known.device.note(available_mib(&heartbeat), grace_period, now);
        let is_new = known.heartbeat.replace(heartbeat).is_none();
        let has_changed = known.machine() != offered;
        self.changed |= has_changed;
        is_new
    }

    /// Records that a worker reported an event, so that a worker that dies before its first heartbeat is
    /// noticed too.
    pub(super) fn record_report(&mut self, worker: &WorkerId, now: Instant) {
        self.mark_seen(worker, now);
    }

    fn mark_seen(&mut self, worker: &WorkerId, now: Instant) -> &mut WorkerRecord {
        let known = self.known.entry(worker.clone()).or_insert(WorkerRecord {
            last_seen: now,
            heartbeat: None,
            device: DeviceMemory::default(),
        });
        known.last_seen = now;
        known
    }

    /// Whether the memory that the workers offer has changed since the last call.
    pub(super) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// Removes and returns the workers that are lost or have left. `listening` is false while there is no
    /// connection to the farm; that time, and time in which this process did not run, counts against no
    /// worker.
    pub(super) fn expire(&mut self, now: Instant, listening: bool) -> Vec<DepartedWorker> {
        let timeout = self.timeout;
        let last = self.last_expiry.replace(now);
        if !listening || last.is_some_and(|last| now - last > timeout / 2) {
            for known in self.known.values_mut() {
                known.last_seen = now;
            }
            return Vec::new();
        }
        let is_gone = |_: &WorkerId, known: &mut WorkerRecord| {
            now - known.last_seen >= timeout || known.state() == Some(WorkerState::Left)
        };
        let is_leaving = |heartbeat: Heartbeat| match heartbeat.state {
            WorkerState::Draining => heartbeat.task.is_none(),
            WorkerState::Left => true,
            WorkerState::Starting | WorkerState::Idle | WorkerState::Working | WorkerState::Unfit => false,
        };
        let removed = self.known.extract_if(.., is_gone);
        let departed = removed.map(|(worker, known)| DepartedWorker {
            worker,
            announced: known.heartbeat.is_some_and(is_leaving),
        });
        let departed: Vec<DepartedWorker> = departed.collect();
        self.changed |= !departed.is_empty();
        departed
    }

    /// The number of workers that accept tasks or soon will.
    pub(super) fn live(&self) -> usize {
        let states = self.known.values().map(WorkerRecord::state);
        states.filter(|state| state.is_none_or(takes_tasks)).count()
    }

    /// The memory that each worker offers. Workers that accept no tasks, offer nothing to a render task, or
    /// have not measured their memory yet are left out.
    pub(super) fn capacities(&self) -> Vec<WorkerCapacity> {
        self.known.values().filter_map(WorkerRecord::machine).collect()
    }

    /// Whether a worker's last heartbeat names the chunk as its task.
    pub(super) fn any_works_on(&self, chunk: ChunkId) -> bool {
        self.tasks().any(|task| task.chunk == chunk)
    }

    /// The number of frames that are finished inside render chunks of `job` that are still running. A
    /// heartbeat may be older than the done record of its chunk, so chunks that `is_done` accepts are left
    /// out.
    pub(super) fn frames_under_way(&self, job: JobId, is_done: impl Fn(ChunkId) -> bool) -> u64 {
        let rendering = |task: &&TaskProgress| task.chunk.job == job && task.chunk.work == WorkKind::Render;
        self.tasks()
            .filter(rendering)
            .filter(|task| !is_done(task.chunk))
            .map(|task| u64::from(task.frames_done))
            .sum()
    }

    fn tasks(&self) -> impl Iterator<Item = &TaskProgress> {
        let heartbeats = self.known.values().filter_map(|known| known.heartbeat.as_ref());
        heartbeats.filter_map(|heartbeat| heartbeat.task.as_ref())
    }
}

fn takes_tasks(state: WorkerState) -> bool {
    match state {
        WorkerState::Starting | WorkerState::Idle | WorkerState::Working => true,
        WorkerState::Draining | WorkerState::Unfit | WorkerState::Left => false,
    }
}

/// The memory that a worker's GPU offers less the memory that other processes hold, in MiB. It is the highest
/// value of the last one to two grace periods: a process that comes and goes does not lower it, a process
/// that stays does.
#[derive(Clone, Copy, Debug, Default)]
struct DeviceMemory {
    since: Option<Instant>,
    best: u64,
    best_before: u64,
}

impl DeviceMemory {
    fn note(&mut self, available_mib: u64, grace_period: Duration, now: Instant) {
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

    fn best(&self) -> u64 {
        self.best.max(self.best_before)
    }
}

/// The worker's capacity less the device memory that other processes hold now, in MiB.
fn available_mib(heartbeat: &Heartbeat) -> u64 {
    let Some(capacity) = heartbeat.capacity.device_mib else {
        return 0;
    };
    let own = heartbeat.memory.map_or(0, |memory| memory.own >> 20);
    let (total, free) = (heartbeat.device_total_mib, heartbeat.device_free_mib);
    capacity.saturating_sub(total.saturating_sub(free).saturating_sub(own))
}

#[cfg(test)]
mod tests {
    use super::*;
    use latentfarm_common::wire::memory::MemorySample;

    fn heartbeat(name: &str, state: WorkerState) -> Heartbeat {
        Heartbeat {
            state,
            ..Heartbeat::starting(name.parse().unwrap(), "cpu".to_owned())
        }
    }

    const SILENCE: Duration = Duration::from_secs(10);
    const SECOND: Duration = Duration::from_secs(1);

    /// Calls `expire` once a second, as the dispatcher does on its ticks.
    fn expire_until(
        workers: &mut Workers,
        from: Instant,
        seconds: u32,
        listening: bool,
    ) -> Vec<DepartedWorker> {
        (1..=seconds)
            .flat_map(|second| workers.expire(from + SECOND * second, listening))
            .collect()
    }

    #[test]
    fn a_silent_worker_is_gone_after_ten_seconds_and_joins_again() {
        let start = Instant::now();
        let mut workers = Workers::new(SILENCE, SILENCE);
        assert!(workers.record_heartbeat(heartbeat("w1", WorkerState::Working), start));
        assert!(!workers.record_heartbeat(heartbeat("w1", WorkerState::Working), start));
        assert_eq!(expire_until(&mut workers, start, 9, true), []);
        let departed = expire_until(&mut workers, start, 10, true);
        assert_eq!(departed.len(), 1);
        assert!(!departed[0].announced);
        assert_eq!(workers.live(), 0);
        assert!(workers.record_heartbeat(heartbeat("w1", WorkerState::Idle), start));
    }

    #[test]
    fn a_worker_that_dies_before_its_first_heartbeat_is_missed() {
        let start = Instant::now();
        let worker: WorkerId = "w1".parse().unwrap();
        let mut workers = Workers::new(SILENCE, SILENCE);
        workers.record_report(&worker, start);
        assert_eq!(workers.live(), 1);
        let announced = false;
        assert_eq!(
            expire_until(&mut workers, start, 10, true),
            [DepartedWorker { worker, announced }]
        );
        workers.record_report(&"w2".parse().unwrap(), start);
        assert!(
            workers.record_heartbeat(heartbeat("w2", WorkerState::Idle), start),
            "it joins with its heartbeat"
        );
    }

    #[test]
    fn a_drained_worker_is_expected_to_leave() {
        let start = Instant::now();
        let mut workers = Workers::new(SILENCE, SILENCE);
        workers.record_heartbeat(heartbeat("w1", WorkerState::Draining), start);
        assert_eq!(workers.live(), 0);
        assert!(expire_until(&mut workers, start, 10, true)[0].announced);
    }

    #[test]
    fn a_worker_that_said_that_it_is_gone_is_not_waited_for() {
        let start = Instant::now();
        let mut workers = Workers::new(SILENCE, SILENCE);
        workers.record_heartbeat(heartbeat("w1", WorkerState::Working), start);
        assert_eq!(workers.expire(start, true), []);
        workers.record_heartbeat(heartbeat("w1", WorkerState::Left), start);
        let worker: WorkerId = "w1".parse().unwrap();
        let announced = true;
        assert_eq!(
            workers.expire(start, true),
            [DepartedWorker { worker, announced }]
        );
    }

    fn with_gpu(free_mib: u64, own_mib: u64) -> Heartbeat {
        Heartbeat {
            device_free_mib: free_mib,
            device_total_mib: 8192,
            capacity: RenderMemory {
                host_mib: None,
                device_mib: Some(7680),
            },
            memory: Some(MemorySample {
                own: own_mib << 20,
                ..MemorySample::default()
            }),
            ..heartbeat("w1", WorkerState::Idle)
        }
    }

    #[test]
    fn memory_that_others_hold_for_long_is_not_counted_on() {
        let start = Instant::now();
        let mut workers = Workers::new(SILENCE, SILENCE);
        let offered = |workers: &Workers| workers.capacities()[0].capacity.device_mib;
        workers.record_heartbeat(with_gpu(8192, 0), start);
        // The memory of the worker's own engine counts as available.
        workers.record_heartbeat(with_gpu(2192, 6000), start + SECOND);
        assert_eq!(offered(&workers), Some(7680));
        for second in 2..=9 {
            workers.record_heartbeat(with_gpu(3192, 0), start + SECOND * second);
            assert_eq!(offered(&workers), Some(7680), "it may go again");
        }
        for second in 10..=20 {
            workers.record_heartbeat(with_gpu(3192, 0), start + SECOND * second);
        }
        assert_eq!(offered(&workers), Some(2680));
        workers.record_heartbeat(with_gpu(8192, 0), start + SECOND * 21);
        assert_eq!(offered(&workers), Some(7680), "back at once");
    }

    #[test]
    fn a_worker_that_cannot_render_or_is_leaving_is_no_machine() {
        let start = Instant::now();
        let mut workers = Workers::new(SILENCE, SILENCE);
        workers.record_heartbeat(heartbeat("w1", WorkerState::Idle), start);
        let mut leaving = with_gpu(8192, 0);
        leaving.worker = "w2".parse().unwrap();
        leaving.state = WorkerState::Draining;
        workers.record_heartbeat(leaving, start);
        assert_eq!(workers.capacities(), []);
    }

    #[test]
    fn nobody_is_lost_while_nobody_listens() {
        let start = Instant::now();
        let mut workers = Workers::new(SILENCE, SILENCE);
        workers.record_heartbeat(heartbeat("w1", WorkerState::Working), start);
        assert_eq!(expire_until(&mut workers, start, 60, false), []);
        let back = start + SECOND * 60;
        assert_eq!(expire_until(&mut workers, back, 9, true), []);
        // This process was stopped for an hour.
        assert_eq!(workers.expire(back + SECOND * 3600, true), []);
        assert_eq!(workers.live(), 1);
    }
}
