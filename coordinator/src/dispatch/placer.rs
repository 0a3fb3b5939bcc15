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
use latentfarm_common::numeric_kind::NumericKind;
use latentfarm_common::queues::ResourceClass;
use latentfarm_common::wire::memory::DeviceKind;
use tokio::time::Instant;

use super::chunk_options::{choices, untried, usual};
use super::committed_load::{Commitments, CommittedLoad};
use super::job::Job;
use super::kinds;
use super::need_estimator::NeedEstimator;
use crate::job::chunk::state::Phase;
use crate::job::record::{ChunkRecord, Scheduled, Unschedulable};
use crate::placement::{
    Candidate, ChunkMemory, JobNeeds, Load, Options, Placement, WorkerCapacity, options, solve,
};

/// The milliseconds that a GPU, and a CPU, is supposed to need for a frame until it is measured. Only their ratio counts.
const SUPPOSED_GPU_FRAME_MS: f64 = 100.0;
const SUPPOSED_CPU_FRAME_MS: f64 = 5000.0;

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
        let mut commitments = Commitments::of_running(jobs.values());
        let mut moves = Vec::new();
        // The chunks of a more urgent job take the workers first.
        let mut in_turn: Vec<&mut Job> = jobs.values_mut().filter(|job| !job.is_paused).collect();
        in_turn.sort_by_key(|job| job.settings.priority);
        for job in in_turn {
            moves.extend(place_job(job, capacities, estimator, &mut commitments, now));
        }
        Some(moves)
    }
}

/// Places the chunks of one job on the workers that have the tags that it needs, and adds them to the commitments.
fn place_job(
    job: &mut Job,
    capacities: &[WorkerCapacity],
    estimator: &NeedEstimator,
    commitments: &mut Commitments,
    now: Instant,
) -> Vec<Reassignment> {
    let needed = job.settings.needed_tags.clone();
    let has_tags = |worker: &WorkerCapacity| worker.tags.cover(&needed);
    let (own, others): (Vec<WorkerCapacity>, Vec<WorkerCapacity>) =
        capacities.iter().cloned().partition(has_tags);
    let capacities = own.as_slice();
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
    let rates = rates_by_kind(job, &needs, capacities, estimator);
    let before = commitments.shared_by(&own, &others);
    let mut committed = before;
    let mut moves = Vec::new();
    for (kind, unbegun) in kinds::choose(job, &unbegun, capacities, &rates) {
        let chunks = (kind, unbegun.as_slice());
        moves.extend(place_chunks(
            job,
            chunks,
            &needs,
            capacities,
            estimator,
            &mut committed,
            now,
        ));
    }
    commitments.add_placed(needed, committed.since(before));
    moves
}

/// Places some chunks of a job, which are given by their indices, on machines of one numeric kind, or of any if that is
/// `None`.
fn place_chunks(
    job: &mut Job,
    (kind, unbegun): (Option<NumericKind>, &[usize]),
    needs: &JobNeeds,
    capacities: &[WorkerCapacity],
    estimator: &NeedEstimator,
    committed: &mut CommittedLoad,
    now: Instant,
) -> Vec<Reassignment> {
    let fallback = job.settings.cpu_fallback;
    let own = capacities
        .iter()
        .filter(|worker| kind.is_none() || worker.kind == kind);
    let own: Vec<WorkerCapacity> = own.cloned().collect();
    let usual = usual(kind, needs, &own);
    let candidates = unbegun.iter().map(|index| {
        let record = &job.chunks.render[*index];
        let machines = (own.as_slice(), capacities);
        let choices = untried(record, needs, kind, machines, fallback)
            .unwrap_or_else(|| choices(record, needs, kind, &usual, machines, fallback));
        Candidate {
            frames: record.range.len(),
            options: choices,
            queued_in: record.lane_under_way(),
        }
    });
    let candidates: Vec<Candidate> = candidates.collect();
    let load = load(job, estimator, &own, &candidates, committed);
    let placements = solve(fallback, &candidates, &load);
    let mut moves = Vec::new();
    for ((index, candidate), placement) in unbegun.iter().zip(&candidates).zip(placements) {
        committed.add(placement.lane(), candidate.frames);
        let record = &mut job.chunks.render[*index];
        if candidate.queued_in.is_some() && candidate.queued_in != placement.lane() {
            let why = match &placement {
                Placement::Queue { fit, why } => {
                    format!("queue {} is better: {why}", job.settings.queue(fit.lane()))
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
                // One that is delayed is placed again when the delay is over.
                let is_to_publish = candidate.queued_in.is_none() && record.may_be_published(now);
                record.scheduled = is_to_publish.then_some(Scheduled { fit, why });
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

/// Returns the frames that the workers of each numeric kind that can take a usual chunk of the job render in a second, by
/// the kinds of their devices. Only a job that is kept to one kind needs it.
fn rates_by_kind(
    job: &Job,
    needs: &JobNeeds,
    capacities: &[WorkerCapacity],
    estimator: &NeedEstimator,
) -> BTreeMap<NumericKind, f64> {
    let mut rates = BTreeMap::new();
    if job.settings.one_kind.is_none() {
        return rates;
    }
    for worker in capacities {
        let choices = options(needs, &ChunkMemory::default(), std::slice::from_ref(worker));
        if let Some(kind) = worker.kind.filter(|_| choices.any(job.settings.cpu_fallback)) {
            let device = choices.gpu.map_or(DeviceKind::Cpu, |_| DeviceKind::Cuda);
            let frame_ms = estimator.frame_ms(&job.spec.model, device);
            let frame_ms = frame_ms.unwrap_or(match device {
                DeviceKind::Cpu => SUPPOSED_CPU_FRAME_MS,
                DeviceKind::Cuda => SUPPOSED_GPU_FRAME_MS,
            });
            *rates.entry(kind).or_default() += 1000.0 / frame_ms.max(1e-3);
        }
    }
    rates
}

/// Whether a chunk may be published now, or is queued and not begun, or fitted no worker before: one that is delayed then
/// may fit one by now.
fn is_unbegun(record: &ChunkRecord, now: Instant) -> bool {
    let is_placed_before = match record.state().phase {
        Phase::Queued => record.published.is_some() && !record.being_verified,
        Phase::Backlog => record.unschedulable.is_some(),
        Phase::Waiting | Phase::Running { .. } | Phase::Done { .. } | Phase::Quarantined { .. } => false,
    };
    record.may_be_published(now) || is_placed_before
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
