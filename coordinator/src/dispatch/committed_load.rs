//! The work that is running or placed already, which the chunks of the next job have to share the workers with. The placer
//! keeps it while it places the chunks of one job after another.

use latentfarm_common::ids::WorkerId;
use latentfarm_common::queues::{Lane, ResourceClass};
use latentfarm_common::tags::Tags;

use super::job::Job;
use crate::job::chunk::state::Phase;
use crate::placement::WorkerCapacity;

/// An amount of work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct CommittedLoad {
    pub(super) gpu_frames: u64,
    pub(super) cpu_chunks: usize,
}

impl CommittedLoad {
    pub(super) fn add(&mut self, lane: Option<Lane>, frames: u64) {
        match lane.map(|lane| lane.class) {
            Some(ResourceClass::Gpu(_)) => self.gpu_frames += frames,
            Some(ResourceClass::Cpu(_)) => self.cpu_chunks += 1,
            Some(ResourceClass::Analyze) | None => {}
        }
    }

    fn add_all(&mut self, other: Self) {
        self.gpu_frames += other.gpu_frames;
        self.cpu_chunks += other.cpu_chunks;
    }

    /// What has been added to `earlier` since.
    pub(super) fn since(self, earlier: Self) -> Self {
        Self {
            gpu_frames: self.gpu_frames.saturating_sub(earlier.gpu_frames),
            cpu_chunks: self.cpu_chunks.saturating_sub(earlier.cpu_chunks),
        }
    }
}

/// The work of all jobs, by the workers that it occupies.
#[derive(Debug, Default)]
pub(super) struct Commitments {
    running: Vec<(WorkerId, CommittedLoad)>,
    /// What was placed of each job, with the tags that the job needs.
    placed: Vec<(Tags, CommittedLoad)>,
}

impl Commitments {
    /// Collects what workers are rendering.
    pub(super) fn of_running<'a>(jobs: impl Iterator<Item = &'a Job>) -> Self {
        let mut commitments = Self::default();
        for record in jobs.flat_map(|job| &job.chunks.render) {
            if let Phase::Running { worker } = &record.state().phase {
                let mut load = CommittedLoad::default();
                load.add(record.lane_under_way(), record.range.len());
                commitments.running.push((worker.clone(), load));
            }
        }
        commitments
    }

    /// The work that a job shares its workers with: `own` are those that have the tags that it needs, and `others` those
    /// that have not.
    pub(super) fn shared_by(&self, own: &[WorkerCapacity], others: &[WorkerCapacity]) -> CommittedLoad {
        let mut load = CommittedLoad::default();
        for (worker, running) in &self.running {
            if !others.iter().any(|other| other.worker == *worker) {
                load.add_all(*running);
            }
        }
        for (needed, placed) in &self.placed {
            if own.iter().any(|worker| worker.tags.cover(needed)) {
                load.add_all(*placed);
            }
        }
        load
    }

    /// Adds what was placed of a job that needs these tags.
    pub(super) fn add_placed(&mut self, needed: Tags, load: CommittedLoad) {
        self.placed.push((needed, load));
    }
}
