//! Everything that the dispatcher keeps about one chunk, in one place. The records are made when a job
//! begins, and only the dispatcher's task changes them.

use latentfarm_common::ids::{Attempt, ChunkId, WorkKind, WorkerId};
use latentfarm_common::queues::{Lane, ResourceClass};
use latentfarm_common::time::FrameRange;
use latentfarm_common::wire::blob::BlobRef;
use latentfarm_common::wire::memory::{DeviceKind, MemoryConstraints, OutOfMemory};
use latentfarm_common::wire::outcome::{Failure, TaskProgress};
use tokio::time::Instant;

use crate::job::chunk::event::ChunkEvent;
use crate::job::chunk::state::{ChunkState, Phase, Step};
use crate::job::failures::Failures;
use crate::job::holders::Holders;
use crate::job::refusals::Refusals;
use crate::job::retry::RetryClass;
use crate::placement::{ChunkMemory, Fit, JobNeeds, OomDecision, Shortage};

#[cfg(test)]
mod tests;

/// When this many workers were lost over the same chunk, it counts as out of memory, because a machine that
/// runs out of memory may die without a report.
const LOSSES: u32 = 2;

/// The record of one chunk. Its [`ChunkState`] is its place in the lifecycle, which only
/// [`ChunkRecord::apply`] changes; the other fields hold what is still to be done about the chunk and what
/// its attempts showed.
#[derive(Clone, Debug)]
pub struct ChunkRecord {
    pub id: ChunkId,
    pub range: FrameRange,
    state: ChunkState,
    /// The chunk is not published before this time.
    pub not_before: Option<Instant>,
    /// Whether a done record of the chunk is being verified.
    pub being_verified: bool,
    /// The sequence number in the done log of the chunk's last record that has come. A record may come again, and is
    /// not judged again: it would confirm itself.
    pub last_record: u64,
    /// The sequence number in the done log of a record that failed verification and is still to be removed.
    pub pending_retraction: Option<u64>,
    /// Records of this attempt and of older ones do not count, because one of them failed verification.
    pub retracted: Option<Attempt>,
    /// Whether the queue may hold a task of an earlier attempt.
    pub maybe_queued: bool,
    /// The attempt that an earlier coordinator had in its queue, and that a worker may still be running.
    pub inherited: Option<Attempt>,
    /// The stored input of the chunk's task.
    pub input: Option<BlobRef>,
    /// The time since which the heartbeats of the worker that runs the chunk have not named it.
    pub unreported_since: Option<Instant>,
    /// What attempts that ran out of memory showed of the chunk's need.
    pub memory: ChunkMemory,
    /// How many workers were lost while they ran the chunk.
    pub losses: u32,
    /// Which workers have begun which attempts.
    pub holders: Holders,
    /// On which workers attempts have failed.
    pub failures: Failures,
    /// The queue that the last placement chose; only a chunk of the backlog has one.
    pub scheduled: Option<Scheduled>,
    /// Why the last placement found no live worker for the chunk, if it found none.
    pub unschedulable: Option<Unschedulable>,
    /// The last attempts, if all of them found too little free memory to begin.
    pub refusals: Option<Refusals>,
    /// The queue that the chunk was last published to.
    pub published: Option<Fit>,
    /// The attempt of a second task of the chunk, which another worker runs beside the one that counts. Its reports change
    /// nothing; its result counts if it is the first.
    pub backup: Option<Attempt>,
    /// The last attempt that was a backup, whether it goes on or not.
    pub last_backup: Option<Attempt>,
}

/// The queue that a chunk of the backlog is to be published to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scheduled {
    pub fit: Fit,
    /// The reason for this queue in one clause.
    pub why: &'static str,
}

/// Why a render chunk fits no live worker, and since when.
#[derive(Clone, Debug)]
pub struct Unschedulable {
    pub since: Instant,
    pub shortages: Vec<Shortage>,
}

/// Why a render chunk waits for memory.
#[derive(Clone, Copy, Debug)]
pub enum MemoryWait<'a> {
    /// It fits no live worker.
    Unschedulable(&'a Unschedulable),
    /// The workers that it fits had too little memory free whenever they took it.
    Refused(&'a Refusals),
}

impl MemoryWait<'_> {
    pub fn since(&self) -> Instant {
        match self {
            Self::Unschedulable(unschedulable) => unschedulable.since,
            Self::Refused(refusals) => refusals.since,
        }
    }

    /// The memory that the chunk needs, in MiB; `None` if that is not known.
    pub fn need_mib(&self) -> Option<u64> {
        match self {
            Self::Unschedulable(unschedulable) => unschedulable.need_mib(),
            Self::Refused(refusals) => Some(refusals.needed_mib),
        }
    }

    /// Describes the shortage in one line, for logs and reports.
    pub fn describe(&self) -> String {
        match self {
            Self::Unschedulable(unschedulable) => unschedulable.describe(),
            Self::Refused(refusals) => refusals.describe(),
        }
    }

    /// The classes of the queues that would be large enough.
    pub fn queues(&self) -> Vec<(DeviceKind, u64)> {
        match self {
            Self::Unschedulable(unschedulable) => {
                let shortages = unschedulable.shortages.iter();
                shortages
                    .filter_map(|shortage| Some((shortage.kind, shortage.queue_mib?)))
                    .collect()
            }
            Self::Refused(refusals) => {
                let class = refusals.class;
                let queue = class.and_then(|class| Some((class.kind()?, class.mib())));
                queue.into_iter().collect()
            }
        }
    }
}

impl Unschedulable {
    /// Describes the shortages in one line, for logs and reports.
    pub fn describe(&self) -> String {
        if self.shortages.is_empty() {
            return "what it needs of a GPU is not known, and the CPU is not allowed".to_owned();
        }
        let parts: Vec<String> = self.shortages.iter().map(ToString::to_string).collect();
        parts.join("; ")
    }

    /// The largest need among the shortages, in MiB.
    pub fn need_mib(&self) -> Option<u64> {
        self.shortages.iter().map(|shortage| shortage.need_mib).max()
    }
}

impl ChunkRecord {
    /// The record of a chunk of a new job.
    pub fn new(id: ChunkId, range: FrameRange) -> Self {
        Self {
            id,
            range,
            state: ChunkState::default(),
            not_before: None,
            being_verified: false,
            last_record: 0,
            pending_retraction: None,
            retracted: None,
            maybe_queued: false,
            inherited: None,
            input: None,
            unreported_since: None,
            memory: ChunkMemory::default(),
            losses: 0,
            holders: Holders::default(),
            failures: Failures::default(),
            scheduled: None,
            unschedulable: None,
            refusals: None,
            published: None,
            backup: None,
            last_backup: None,
        }
    }

    pub fn state(&self) -> &ChunkState {
        &self.state
    }

    /// Whether a report about `attempt` is about a second task of the chunk, which may be over: reports come late, and again.
    pub fn is_of_backup(&self, attempt: Attempt) -> bool {
        let is_known = self.last_backup.is_some_and(|last| attempt <= last);
        is_known && self.state.is_under_way() && attempt > self.state.attempt
    }

    /// Whether the chunk may be published now, provided that a queue is chosen for it.
    pub fn may_be_published(&self, now: Instant) -> bool {
        self.state.phase == Phase::Backlog
            && self.not_before.is_none_or(|at| at <= now)
            && !self.being_verified
            && self.pending_retraction.is_none()
    }

    /// Whether only a placement is missing for the chunk to be published.
    pub fn needs_placement(&self, now: Instant) -> bool {
        self.id.work == WorkKind::Render
            && self.scheduled.is_none()
            && self.unschedulable.is_none()
            && self.may_be_published(now)
    }

    /// The lane of the queue to which the chunk is to be published now; `None` if it is not to be published.
    pub fn lane_to_publish(&self, now: Instant) -> Option<Lane> {
        let lane = self.lane_of(self.scheduled.map(|scheduled| scheduled.fit));
        lane.filter(|_| self.may_be_published(now))
    }

    /// The lane of the queue in which a task of the chunk is queued or running.
    pub fn lane_under_way(&self) -> Option<Lane> {
        let lane = self.lane_of(self.published);
        lane.filter(|_| self.state.is_under_way())
    }

    fn lane_of(&self, fit: Option<Fit>) -> Option<Lane> {
        match self.id.work {
            WorkKind::Analyze => Some(Lane::any(ResourceClass::Analyze)),
            WorkKind::Render | WorkKind::Border | WorkKind::SpotCheck => fit.map(|fit| fit.lane()),
        }
    }

    /// Records that an attempt ran out of memory, and returns what the policy decided. `predicted` are the
    /// uncorrected needs of the job; `class` is that of the queue from which the task was pulled, if that is
    /// known.
    pub fn record_oom(
        &mut self,
        predicted: &JobNeeds,
        oom: &OutOfMemory,
        class: Option<ResourceClass>,
    ) -> OomDecision {
        let (needs, overhead_mib) = (predicted.of(oom.kind), predicted.overhead_mib(oom.kind));
        needs.map_or(OomDecision::RetryUnchanged, |needs| {
            self.memory.record_oom(oom, class, needs, overhead_mib)
        })
    }

    /// Records that a worker reported a failure. Returns the shortage if the attempt counted and ran out of
    /// memory, and what follows for the next attempt, if anything does.
    pub fn record_failure(
        &mut self,
        predicted: &JobNeeds,
        attempt: Attempt,
        worker: &WorkerId,
        failure: &Failure,
        now: Instant,
    ) -> (Option<OutOfMemory>, Option<String>) {
        if !self.state.is_current(attempt) {
            return (None, Some("another attempt counts already".to_owned()));
        }
        let earlier = self.refusals.take();
        match failure {
            // An analysis does not use the engine, so it has no leaner plan.
            Failure::OutOfMemory(oom) if self.id.work == WorkKind::Render => {
                let class = self.published.map(|fit| fit.class);
                let decision = self.record_oom(predicted, oom, class);
                (Some(oom.clone()), Some(decision.describe(oom.kind)))
            }
            Failure::InsufficientMemory {
                needed_mib, free_mib, ..
            } => {
                let class = self.published.map(|fit| fit.class);
                let figures = (*needed_mib, *free_mib);
                self.refusals = Some(Refusals::after(earlier.as_ref(), worker, class, figures, now));
                (
                    None,
                    Some("the attempt had not begun, and is repeated".to_owned()),
                )
            }
            Failure::OutOfMemory(_)
            | Failure::BadInput { .. }
            | Failure::WorkerUnfit { .. }
            | Failure::Transient { .. }
            | Failure::EngineLost { .. } => (None, None),
        }
    }

    /// Records that a worker was lost while it ran the chunk. One loss may have any cause; after `LOSSES`
    /// of them the chunk gets a leaner plan, as if it had run out of memory. Returns a description of that,
    /// if it happens.
    pub fn record_loss(&mut self, predicted: &JobNeeds) -> Option<String> {
        self.losses += 1;
        let fit = self.published.filter(|_| self.losses.is_multiple_of(LOSSES))?;
        let MemoryConstraints { kind, floor, .. } = fit.constraints;
        let oom = OutOfMemory {
            kind,
            device: kind.to_string(),
            stage: None,
            plan: floor,
            needed_at_least_mib: None,
            free_before_mib: fit.need_mib,
            suspected: true,
        };
        let decision = self.record_oom(predicted, &oom, Some(fit.class)).describe(kind);
        Some(format!(
            "{LOSSES} workers were lost while they ran it, perhaps for lack of memory: {decision}"
        ))
    }

    /// Applies an event to the chunk's state, and clears what no longer holds in the new state.
    pub fn apply(&mut self, event: ChunkEvent) -> Step {
        let cause = event.cause();
        let is_end = cause.is_some();
        let failed_on = event.failed_on().cloned();
        #[cfg(test)]
        let noted = event.clone();
        let step = self.state.on(event);
        #[cfg(test)]
        crate::job::chunk::probe::note(self.id, &self.state, &noted, &step);
        let Step::Moved(next) = &step else { return step };
        if let (Some(cause), Some(worker)) = (cause, failed_on) {
            let is_bad_input = cause.class == RetryClass::BadInput;
            self.failures.add(&worker, &cause.reason, is_bad_input);
        }
        self.state = next.clone();
        self.unreported_since = None;
        self.scheduled = None;
        match self.state.phase {
            Phase::Waiting => {}
            Phase::Backlog => {
                self.maybe_queued |= is_end;
                self.backup = None;
            }
            Phase::Queued | Phase::Running { .. } | Phase::Done { .. } => {
                self.not_before = None;
                self.inherited = None;
                self.unschedulable = None;
            }
            Phase::Quarantined { .. } => {
                self.maybe_queued = true;
                self.unschedulable = None;
            }
        }
        if matches!(self.state.phase, Phase::Done { .. }) {
            self.input = None;
            self.refusals = None;
        }
        step
    }

    /// Records what a worker reports of its task of this chunk. One that has chosen a memory plan had the
    /// memory.
    pub fn on_progress(&mut self, worker: &WorkerId, task: &TaskProgress) {
        self.holders.add(worker, task.attempt);
        if task.plan.is_some() && self.state.is_running_on(worker) {
            self.refusals = None;
        }
    }

    /// Why the chunk waits for memory; `None` if it does not.
    pub fn memory_wait(&self) -> Option<MemoryWait<'_>> {
        if self.state.is_settled() {
            return None;
        }
        let refused = || self.refusals.as_ref().filter(|refusals| refusals.is_wait());
        let unfit = self.unschedulable.as_ref().map(MemoryWait::Unschedulable);
        unfit.or_else(|| refused().map(MemoryWait::Refused))
    }

    /// Counts the chunk's wait for memory from `now` on, because the time before does not count.
    pub fn restart_memory_wait(&mut self, now: Instant) {
        if let Some(unschedulable) = &mut self.unschedulable {
            unschedulable.since = now;
        }
        if let Some(refusals) = &mut self.refusals {
            refusals.since = now;
        }
    }
}
