//! The workers of the farm, which the dispatcher knows from their heartbeats and reports.

mod health;
mod offered_memory;
mod service;

use std::collections::BTreeMap;
use std::time::Duration;

use latentfarm_common::backoff::Backoff;
use latentfarm_common::ids::{ChunkId, JobId, WorkKind, WorkerId};
use latentfarm_common::queues::{Available, ResourceClass, fitting};
use latentfarm_common::tags::Tags;
use latentfarm_common::wire::memory::{DeviceKind, RenderMemory};
use latentfarm_common::wire::outcome::{Heartbeat, TaskProgress, TaskStage, WorkerState};
use tokio::time::Instant;

use super::settings::Timeouts;
use crate::placement::WorkerCapacity;
use health::Health;
use offered_memory::OfferedMemory;

pub(super) use health::{SetAside, VANISHED};

/// The known workers, with the last heartbeat of each.
#[derive(Debug)]
pub(super) struct Workers {
    timeout: Duration,
    /// Memory that other programs have held for this long no longer counts as available.
    tenant_grace_period: Duration,
    known: BTreeMap<WorkerId, WorkerRecord>,
    /// The time of the last call of [`Workers::expire`].
    last_expiry: Option<Instant>,
    /// Whether the queues that a worker serves have changed since the last call of
    /// [`Workers::take_changed`].
    changed: bool,
    health: Health,
    /// The workers that were set aside since the last call of [`Workers::take_set_aside`].
    newly_set_aside: Vec<SetAside>,
    /// Whether the offered memory has changed at all since the last call of [`Workers::take_drifted`].
    drifted: bool,
}

#[derive(Debug)]
struct WorkerRecord {
    last_seen: Instant,
    /// The last heartbeat; `None` if the worker has only reported an event so far.
    heartbeat: Option<Heartbeat>,
    host: OfferedMemory,
    device: OfferedMemory,
    /// Set if the worker's last task failed because the worker is unfit for it, or if it reports so itself.
    unfit: Option<Unfit>,
    /// Whether the coordinator has set the worker aside.
    is_set_aside: bool,
}

/// The report of a worker that it cannot run a task.
#[derive(Debug)]
struct Unfit {
    message: String,
    /// The tasks that the worker had finished before.
    finished: u64,
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
        (renders && takes_tasks(heartbeat.state) && !self.is_set_aside).then(|| WorkerCapacity {
            worker: heartbeat.worker.clone(),
            kind: heartbeat.kind,
            tags: heartbeat.tags.clone(),
            capacity: RenderMemory {
                host_mib: host_mib.map(|mib| mib.min(self.host.best())),
                device_mib: device_mib.map(|mib| mib.min(self.device.best())),
            },
            alone: heartbeat.capacity,
        })
    }

    /// Whether the worker accepts tasks and its last one did not show that it is unfit.
    fn is_usable(&self) -> bool {
        self.state().is_none_or(takes_tasks) && self.unfit.is_none() && !self.is_set_aside
    }

    /// Whether the worker has all of these tags. One that has sent no heartbeat yet is not known to have any.
    fn has(&self, needed: &Tags) -> bool {
        let heartbeat = self.heartbeat.as_ref();
        needed.is_empty() || heartbeat.is_some_and(|heartbeat| heartbeat.tags.cover(needed))
    }

    fn is_busy(&self) -> bool {
        let heartbeat = self.heartbeat.as_ref();
        heartbeat.is_some_and(|heartbeat| heartbeat.task.is_some())
    }
}

/// The classes of the largest queues that a worker serves, by which it is decided whether a change of its
/// memory matters to the placement.
fn largest_classes(machine: Option<&WorkerCapacity>) -> Option<[Option<ResourceClass>; 2]> {
    let largest = |memory| {
        let available = Available {
            analyze: false,
            memory,
        };
        let queues = fitting(&available, None, &Tags::NONE);
        queues.first().map(|queue| queue.lane.class)
    };
    machine.map(|machine| {
        let RenderMemory { host_mib, device_mib } = machine.capacity;
        [
            largest(RenderMemory {
                host_mib,
                device_mib: None,
            }),
            largest(RenderMemory {
                host_mib: None,
                device_mib,
            }),
        ]
    })
}

/// A worker that was removed, because its heartbeats stopped or because it has left.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct DepartedWorker {
    pub worker: WorkerId,
    /// The chunks whose tasks it held and had not begun.
    pub held: Vec<ChunkId>,
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
            health: Health::new(Timeouts::default().set_aside),
            newly_set_aside: Vec::new(),
            changed: false,
            drifted: false,
        }
    }

    /// Sets how long a worker that fails what others finish gets no task.
    pub(super) fn with_pauses(mut self, pauses: Backoff) -> Self {
        self.health = Health::new(pauses);
        self
    }

    /// Records a heartbeat, and returns whether it is the worker's first.
    pub(super) fn record_heartbeat(&mut self, heartbeat: Heartbeat, now: Instant) -> bool {
        let grace_period = self.tenant_grace_period;
        self.note_service(&heartbeat, now);
        let known = self.mark_seen(&heartbeat.worker, now);
        let before = known.machine();
        let memory = heartbeat.available.memory;
        known
            .device
            .note(memory.device_mib.unwrap_or(0), grace_period, now);
        // A host's figures during a task are not exact, since its pages are shared with files and with other
        // processes: what a busy worker offers does not fall.
        let host_mib = memory.host_mib.unwrap_or(0);
        if heartbeat.tasks().next().is_none() || host_mib >= known.host.best() {
            known.host.note(host_mib, grace_period, now);
        }
        let is_new = known.heartbeat.replace(heartbeat).is_none();
        let after = known.machine();
        self.drifted |= after != before;
        let serves = |machine: Option<WorkerCapacity>| {
            let classes = largest_classes(machine.as_ref());
            (classes, machine.map(|machine| machine.tags))
        };
        self.changed |= serves(after) != serves(before);
        is_new
    }

    /// Records that a worker reported an event, so that a worker that dies before its first heartbeat is
    /// noticed too.
    pub(super) fn record_report(&mut self, worker: &WorkerId, now: Instant) {
        self.mark_seen(worker, now);
    }

    fn mark_seen(&mut self, worker: &WorkerId, now: Instant) -> &mut WorkerRecord {
        let health = &self.health;
        let known = self.known.entry(worker.clone()).or_insert_with(|| WorkerRecord {
            last_seen: now,
            heartbeat: None,
            host: OfferedMemory::default(),
            device: OfferedMemory::default(),
            unfit: None,
            is_set_aside: health.set_aside(worker, now).is_some(),
        });
        known.last_seen = now;
        known
    }

    /// Whether the queues that the workers serve have changed since the last call.
    pub(super) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// Whether the memory that the workers offer has changed since the last call, by however little. It
    /// matters to the figures of the chunks that wait for memory.
    pub(super) fn take_drifted(&mut self) -> bool {
        std::mem::take(&mut self.drifted)
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
            WorkerState::Draining => heartbeat.tasks().next().is_none(),
            WorkerState::Left => true,
            WorkerState::Starting
            | WorkerState::Idle
            | WorkerState::Working
            | WorkerState::Unfit
            | WorkerState::SetAside
            | WorkerState::Resting => false,
        };
        let removed = self.known.extract_if(.., is_gone);
        let departed = removed.map(|(worker, known)| DepartedWorker {
            worker,
            held: known
                .heartbeat
                .as_ref()
                .map(|heartbeat| heartbeat.held.clone())
                .unwrap_or_default(),
            announced: known.heartbeat.is_some_and(is_leaving),
        });
        let departed: Vec<DepartedWorker> = departed.collect();
        self.changed |= !departed.is_empty();
        departed
    }

    /// Whether a worker with the `needed` tags that holds a task other than `chunk` could offer this much if nothing else
    /// ran on its machine. Its own task may be what fills the memory now.
    pub(super) fn any_busy_with(
        &self,
        (kind, mib): (DeviceKind, u64),
        chunk: ChunkId,
        needed: &Tags,
    ) -> bool {
        let may_offer = |known: &WorkerRecord| {
            let capacity = known
                .heartbeat
                .as_ref()
                .and_then(|heartbeat| heartbeat.capacity.of(kind));
            let task = known
                .heartbeat
                .as_ref()
                .and_then(|heartbeat| heartbeat.task.as_ref());
            task.is_some_and(|task| task.chunk != chunk) && capacity >= Some(mib)
        };
        self.known
            .values()
            .any(|known| known.has(needed) && may_offer(known))
    }

    /// A worker that holds a result for which the store has no room, if there is one.
    pub(super) fn without_store(&self) -> Option<&WorkerId> {
        let waits = |known: &&WorkerRecord| {
            let mut tasks = known.heartbeat.iter().flat_map(Heartbeat::tasks);
            tasks.any(|task| task.stage == TaskStage::StoreFull)
        };
        let (worker, _) = self.known.iter().find(|(_, known)| waits(known))?;
        Some(worker)
    }

    /// The memory that each worker with the `needed` tags offers. Workers that accept no tasks, offer nothing to a render
    /// task, or have not measured their memory yet are left out.
    pub(super) fn capacities(&self, needed: &Tags) -> Vec<WorkerCapacity> {
        let own = self.known.values().filter(|known| known.has(needed));
        own.filter_map(WorkerRecord::machine).collect()
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
        // Two workers may render one chunk.
        let mut frames: BTreeMap<ChunkId, u64> = BTreeMap::new();
        for task in self.tasks().filter(rendering).filter(|task| !is_done(task.chunk)) {
            let most = frames.entry(task.chunk).or_default();
            *most = u64::from(task.frames_done).max(*most);
        }
        frames.values().sum()
    }

    fn tasks(&self) -> impl Iterator<Item = &TaskProgress> {
        let heartbeats = self.known.values().filter_map(|known| known.heartbeat.as_ref());
        heartbeats.flat_map(Heartbeat::tasks)
    }

    /// What a worker reports of a chunk that it has begun.
    pub(super) fn task_of(&self, worker: &WorkerId, chunk: ChunkId) -> Option<&TaskProgress> {
        let heartbeat = self.known.get(worker)?.heartbeat.as_ref()?;
        heartbeat.tasks().find(|task| task.chunk == chunk)
    }

    /// What the idle workers offer to render tasks.
    pub(super) fn idle_capacities(&self) -> Vec<WorkerCapacity> {
        let is_idle = |known: &&WorkerRecord| {
            let heartbeat = known.heartbeat.as_ref();
            known.is_usable()
                && !known.is_busy()
                && heartbeat.is_some_and(|heartbeat| heartbeat.state == WorkerState::Idle)
        };
        let idle = self.known.values().filter(is_idle);
        idle.filter_map(WorkerRecord::machine).collect()
    }

    /// The workers that hold tasks which they have not begun, by the chunks of these.
    pub(super) fn holders(&self) -> BTreeMap<ChunkId, &WorkerId> {
        let heartbeats = self.known.values().filter_map(|known| known.heartbeat.as_ref());
        let held = heartbeats.flat_map(|heartbeat| {
            let chunks = heartbeat.held.iter();
            chunks.map(|chunk| (*chunk, &heartbeat.worker))
        });
        held.collect()
    }
}

fn takes_tasks(state: WorkerState) -> bool {
    match state {
        WorkerState::Starting | WorkerState::Idle | WorkerState::Working => true,
        WorkerState::Draining
        | WorkerState::Unfit
        | WorkerState::SetAside
        | WorkerState::Resting
        | WorkerState::Left => false,
    }
}

#[cfg(test)]
mod tests;
