//! Places render chunks: which queue each may go to now, which have to wait, and which are moved because the farm
//! or what is known of their need has changed.
//!
//! The dispatcher marks the placement stale with each change, and asks for a new one when it is due: at once after a
//! while of rest, so that a worker that joins is used with its first heartbeat, and a few times a second at most. A
//! chunk that is queued but not begun is moved when its best queue is another one: a GPU that could take a chunk of the
//! CPU's queue takes it by that, and the first done record wins if a worker pulled it at that very moment.

use std::collections::BTreeMap;
use std::time::Duration;

use latentfarm_common::ids::{ChunkId, JobId};
use latentfarm_common::queues::ResourceClass;
use latentfarm_common::wire::memory::DeviceKind;
use tokio::time::Instant;

use super::job::Job;
use super::learned::NeedEstimator;
use crate::job::chunk::state::Phase;
use crate::job::record::{ChunkRecord, Planned, Unplaced};
use crate::placement::{Candidate, ChunkMemory, Load, Machine, Options, Placement, options, solve};

/// Says when chunks are to be placed, and places them.
#[derive(Debug)]
pub(super) struct Placer {
    every: Duration,
    is_stale: bool,
    /// No placement before this time.
    earliest: Instant,
}

/// A task to be taken out of the queue, because its chunk belongs elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TakeBack {
    pub(super) chunk: ChunkId,
    pub(super) why: String,
}

/// What the chunks that are begun or placed already leave to the next job.
#[derive(Clone, Copy, Debug, Default)]
struct Taken {
    gpu_frames: u64,
    cpu_chunks: usize,
}

impl Placer {
    /// Two placements are at least `every` apart.
    pub(super) fn new(every: Duration, now: Instant) -> Self {
        Self {
            every,
            is_stale: true,
            earliest: now,
        }
    }

    /// Something has changed that a placement depends on.
    pub(super) fn mark_stale(&mut self) {
        self.is_stale = true;
    }

    /// When the next placement is due; `None` while nothing has changed.
    pub(super) fn due_at(&self) -> Option<Instant> {
        self.is_stale.then_some(self.earliest)
    }

    /// Places all chunks that nobody has begun, if that is due. Returns the tasks to be taken out of the queue.
    pub(super) fn place(
        &mut self,
        jobs: &mut BTreeMap<JobId, Job>,
        machines: &[Machine],
        learned: &NeedEstimator,
        now: Instant,
    ) -> Option<Vec<TakeBack>> {
        self.due_at().filter(|at| *at <= now)?;
        self.is_stale = false;
        self.earliest = now + self.every;
        let mut taken = Taken::default();
        for job in jobs.values() {
            taken.add_running(job);
        }
        let mut moves = Vec::new();
        for job in jobs.values_mut() {
            moves.extend(place_job(job, machines, learned, &mut taken, now));
        }
        Some(moves)
    }
}

/// Places the chunks of one job beside what is taken already, and adds them to it.
fn place_job(
    job: &mut Job,
    machines: &[Machine],
    learned: &NeedEstimator,
    taken: &mut Taken,
    now: Instant,
) -> Vec<TakeBack> {
    let unbegun = job.chunks.render.iter().filter(|record| is_unbegun(record, now));
    let unbegun: Vec<usize> = unbegun.map(|record| record.id.index as usize).collect();
    // Without any worker there is nobody to judge by: nothing is published, nothing is given up.
    if machines.is_empty() {
        for record in &mut job.chunks.render {
            (record.planned, record.unplaced) = (None, None);
        }
        return Vec::new();
    }
    let observations = |kind| learned.observations(&job.spec.model, kind);
    let needs = job.settings.needs.corrected(observations);
    let usual = options(&needs, &ChunkMemory::default(), machines);
    let candidates = unbegun.iter().map(|index| {
        let record = &job.chunks.render[*index];
        Candidate {
            frames: record.range.len(),
            options: if record.memory == ChunkMemory::default() {
                usual.clone()
            } else {
                options(&needs, &record.memory, machines)
            },
            at: record.class_under_way(),
        }
    });
    let candidates: Vec<Candidate> = candidates.collect();
    let load = load(job, learned, machines, &candidates, taken);
    let placements = solve(job.settings.cpu_fallback, &candidates, &load);
    let mut moves = Vec::new();
    for ((index, candidate), placement) in unbegun.into_iter().zip(&candidates).zip(placements) {
        taken.add(placement.class(), candidate.frames);
        let record = &mut job.chunks.render[index];
        if candidate.at.is_some() && candidate.at != placement.class() {
            let why = match &placement {
                Placement::Queue { fit, why } => {
                    format!("{} is better: {why}", job.settings.queue(fit.class))
                }
                Placement::Wait { .. } => "nobody is left who can take it there".to_owned(),
            };
            moves.push(TakeBack {
                chunk: record.id,
                why,
            });
        }
        match placement {
            Placement::Queue { fit, why } => {
                record.unplaced = None;
                record.planned = candidate.at.is_none().then_some(Planned { fit, why });
            }
            Placement::Wait { shortages } => {
                record.planned = None;
                let since = record.unplaced.as_ref().map(|unplaced| unplaced.since);
                let unplaced = Unplaced {
                    since: since.unwrap_or(now),
                    shortages,
                };
                let (chunk, range, reason) = (record.id, record.range, unplaced.text());
                record.unplaced = Some(unplaced);
                if since.is_none() {
                    let at_most = job.settings.unplaceable_wait;
                    job.log.on_unplaced(chunk, range, reason, at_most);
                }
            }
        }
    }
    moves
}

/// Whether a chunk may be published now, or is queued and not begun.
fn is_unbegun(record: &ChunkRecord, now: Instant) -> bool {
    let is_queued = record.state().phase == Phase::Queued && record.published.is_some();
    record.may_be_published(now) || is_queued && !record.in_check
}

fn load(
    job: &Job,
    learned: &NeedEstimator,
    machines: &[Machine],
    candidates: &[Candidate],
    taken: &Taken,
) -> Load {
    let serve = |machine: &&Machine, class: fn(&Options) -> Option<ResourceClass>| {
        let mut classes = candidates
            .iter()
            .filter_map(|candidate| class(&candidate.options));
        classes.any(|class| machine.serves(class))
    };
    let gpu = |options: &Options| options.gpu.map(|fit| fit.class);
    let cpu = |options: &Options| options.cpu.map(|fit| fit.class);
    Load {
        gpu_workers: machines.iter().filter(|machine| serve(machine, gpu)).count(),
        cpu_workers: machines
            .iter()
            .filter(|machine| machine.capacity.device_mib.is_none() && serve(machine, cpu))
            .count(),
        gpu_frame_ms: learned.frame_ms(&job.spec.model, DeviceKind::Cuda),
        cpu_frame_ms: learned.frame_ms(&job.spec.model, DeviceKind::Cpu),
        gpu_frames: taken.gpu_frames,
        cpu_chunks: taken.cpu_chunks,
    }
}

impl Taken {
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
