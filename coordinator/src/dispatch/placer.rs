//! Places the render chunks of all jobs: decides which queue each may be published to now, which have to
//! wait, and which queued tasks are moved because the workers or the estimated needs have changed.
//!
//! The dispatcher marks the placement stale with each change, and runs a new one when it is due: at once
//! after a pause, so that a worker that joins is used with its first heartbeat, and a few times a second at
//! most. A chunk that is queued but not begun is moved when another queue is better for it; this is how a GPU
//! gets a chunk from the CPU's queue. If a worker pulled the task just before, the chunk runs twice and the
//! first done record counts.

use std::collections::BTreeMap;
use std::time::Duration;

use latentfarm_common::ids::{ChunkId, JobId};
use latentfarm_common::queues::ResourceClass;
use latentfarm_common::wire::memory::DeviceKind;
use tokio::time::Instant;

use super::job::Job;
use super::need_estimator::NeedEstimator;
use crate::job::chunk::state::Phase;
use crate::job::record::{ChunkRecord, Scheduled, Unschedulable};
use crate::placement::{
    Candidate, ChunkMemory, CpuFallback, JobNeeds, Load, Options, Placement, WorkerCapacity, options, solve,
};

/// Decides when chunks are placed, and places them.
#[derive(Debug)]
pub(super) struct Placer {
    interval: Duration,
    is_stale: bool,
    /// Chunks are not placed before this time.
    earliest: Instant,
}

/// A task to be removed from its queue, because another queue is better for its chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reassignment {
    pub(super) chunk: ChunkId,
    pub(super) why: String,
}

/// The work that is running or placed already, which the chunks of the next job have to share the workers
/// with.
#[derive(Clone, Copy, Debug, Default)]
struct CommittedLoad {
    gpu_frames: u64,
    cpu_chunks: usize,
}

impl Placer {
    /// A placer whose placements are at least `interval` apart.
    pub(super) fn new(interval: Duration, now: Instant) -> Self {
        Self {
            interval,
            is_stale: true,
            earliest: now,
        }
    }

    /// Records that something has changed on which a placement depends.
    pub(super) fn mark_stale(&mut self) {
        self.is_stale = true;
    }

    /// When the next placement is due; `None` while nothing has changed.
    pub(super) fn due_at(&self) -> Option<Instant> {
        self.is_stale.then_some(self.earliest)
    }

    /// Places all chunks that no worker has begun, if that is due. Returns the tasks to be removed from their
    /// queues.
    pub(super) fn place(
        &mut self,
        jobs: &mut BTreeMap<JobId, Job>,
        capacities: &[WorkerCapacity],
        estimator: &NeedEstimator,
        now: Instant,
    ) -> Option<Vec<Reassignment>> {
        self.due_at().filter(|at| *at <= now)?;
        self.is_stale = false;
        self.earliest = now + self.interval;
        let mut committed = CommittedLoad::default();
        for job in jobs.values() {
            committed.add_running(job);
        }
        let mut moves = Vec::new();
        // The chunks of a more urgent job take the workers first.
        let mut in_turn: Vec<&mut Job> = jobs.values_mut().filter(|job| !job.is_paused).collect();
        in_turn.sort_by_key(|job| job.settings.priority);
        for job in in_turn {
            moves.extend(place_job(job, capacities, estimator, &mut committed, now));
        }
        Some(moves)
    }
}

/// Places the chunks of one job, and adds them to the committed load.
fn place_job(
    job: &mut Job,
    capacities: &[WorkerCapacity],
    estimator: &NeedEstimator,
    committed: &mut CommittedLoad,
    now: Instant,
) -> Vec<Reassignment> {
    let unbegun = job.chunks.render.iter().filter(|record| is_unbegun(record, now));
    let unbegun: Vec<usize> = unbegun.map(|record| record.id.index as usize).collect();
    // Without any worker there is no capacity to compare with, so nothing is published. A chunk that fitted no
    // worker before still waits.
    if capacities.is_empty() {
        for record in &mut job.chunks.render {
            record.scheduled = None;
        }
        return Vec::new();
    }
    let observations = |kind| estimator.observations(&job.spec.model, kind);
    let needs = job.settings.needs.corrected(observations);
    let usual = options(&needs, &ChunkMemory::default(), capacities);
    let candidates = unbegun.iter().map(|index| {
        let record = &job.chunks.render[*index];
        Candidate {
            frames: record.range.len(),
            options: options_of(record, &needs, &usual, capacities, job.settings.cpu_fallback),
            queued_in: record.class_under_way(),
        }
    });
    let candidates: Vec<Candidate> = candidates.collect();
    let load = load(job, estimator, capacities, &candidates, committed);
    let placements = solve(job.settings.cpu_fallback, &candidates, &load);
    let mut moves = Vec::new();
    for ((index, candidate), placement) in unbegun.into_iter().zip(&candidates).zip(placements) {
        committed.add(placement.class(), candidate.frames);
        let record = &mut job.chunks.render[index];
        if candidate.queued_in.is_some() && candidate.queued_in != placement.class() {
            let why = match &placement {
                Placement::Queue { fit, why } => {
                    format!("queue {} is better: {why}", job.settings.queue(fit.class))
                }
                Placement::Wait { .. } => "no live worker serves that queue any more".to_owned(),
            };
            moves.push(Reassignment {
                chunk: record.id,
                why,
            });
        }
        match placement {
            Placement::Queue { fit, why } => {
                record.unschedulable = None;
                record.scheduled = candidate.queued_in.is_none().then_some(Scheduled { fit, why });
            }
            Placement::Wait { shortages } => {
                record.scheduled = None;
                let earlier = record.unschedulable.take();
                let since = earlier.as_ref().map_or(now, |earlier| earlier.since);
                let unschedulable = record.unschedulable.insert(Unschedulable { since, shortages });
                if earlier.is_none() {
                    let (reason, at_most) = (unschedulable.describe(), job.settings.unplaceable_wait);
                    job.log.on_unschedulable(record.id, record.range, reason, at_most);
                }
            }
        }
    }
    moves
}

/// Finds the queues for one chunk; `usual` are those of a chunk that has not failed for memory. A chunk that
/// the workers of its class refused again and again belongs to a larger class, if a worker serves one.
fn options_of(
    record: &ChunkRecord,
    needs: &JobNeeds,
    usual: &Options,
    capacities: &[WorkerCapacity],
    fallback: CpuFallback,
) -> Options {
    let refusals = record.refusals.as_ref().filter(|refusals| refusals.is_wait());
    if let Some(class) = refusals.and_then(|refusals| refusals.class) {
        let above = options(needs, &record.memory.above(class), capacities);
        if above.gpu.is_some() || above.cpu.is_some() && fallback != CpuFallback::Never {
            return above;
        }
    }
    if record.memory == ChunkMemory::default() {
        usual.clone()
    } else {
        options(needs, &record.memory, capacities)
    }
}

/// Whether a chunk may be published now, or is queued and not begun.
fn is_unbegun(record: &ChunkRecord, now: Instant) -> bool {
    let is_queued = record.state().phase == Phase::Queued && record.published.is_some();
    record.may_be_published(now) || is_queued && !record.being_verified
}

fn load(
    job: &Job,
    estimator: &NeedEstimator,
    capacities: &[WorkerCapacity],
    candidates: &[Candidate],
    committed: &CommittedLoad,
) -> Load {
    let serve = |worker: &&WorkerCapacity, class: fn(&Options) -> Option<ResourceClass>| {
        let mut classes = candidates
            .iter()
            .filter_map(|candidate| class(&candidate.options));
        classes.any(|class| worker.serves(class))
    };
    let gpu = |options: &Options| options.gpu.map(|fit| fit.class);
    let cpu = |options: &Options| options.cpu.map(|fit| fit.class);
    Load {
        gpu_workers: capacities.iter().filter(|worker| serve(worker, gpu)).count(),
        cpu_workers: capacities
            .iter()
            .filter(|worker| worker.capacity.device_mib.is_none() && serve(worker, cpu))
            .count(),
        gpu_frame_ms: estimator.frame_ms(&job.spec.model, DeviceKind::Cuda),
        cpu_frame_ms: estimator.frame_ms(&job.spec.model, DeviceKind::Cpu),
        gpu_frames: committed.gpu_frames,
        cpu_chunks: committed.cpu_chunks,
    }
}

impl CommittedLoad {
    fn add_running(&mut self, job: &Job) {
        for record in &job.chunks.render {
            if matches!(record.state().phase, Phase::Running { .. }) {
                self.add(record.class_under_way(), record.range.len());
            }
        }
    }

    fn add(&mut self, class: Option<ResourceClass>, frames: u64) {
        match class {
            Some(ResourceClass::Gpu(_)) => self.gpu_frames += frames,
            Some(ResourceClass::Cpu(_)) => self.cpu_chunks += 1,
            Some(ResourceClass::Analyze) | None => {}
        }
    }
}
