//! Gives up the chunks that have failed on enough workers. The dispatcher calls it after each failure, and on each tick, as
//! workers come and go. Until then the placement takes a chunk to workers that have not tried it.

use std::collections::BTreeSet;

use latentfarm_common::ids::{ChunkId, WorkKind, WorkerId};

use super::job::Job;
use super::need_estimator::NeedEstimator;
use super::workers::Workers;
use crate::job::chunk::event::ChunkEvent;
use crate::job::chunk::state::Phase;
use crate::job::record::ChunkRecord;
use crate::placement::{CpuFallback, WorkerCapacity, options};

impl Job {
    /// Gives up the chunks of the backlog that have failed on enough workers.
    pub(super) fn give_up_failing(&mut self, workers: &Workers, estimator: &NeedEstimator) {
        let fails =
            |record: &ChunkRecord| record.state().phase == Phase::Backlog && !record.failures.is_empty();
        for chunk in self.chunks.ids(fails) {
            self.give_up_if_failing(chunk, workers, estimator);
        }
    }

    /// Gives up a chunk of the backlog if it has failed on enough workers.
    pub(super) fn give_up_if_failing(
        &mut self,
        chunk: ChunkId,
        workers: &Workers,
        estimator: &NeedEstimator,
    ) {
        let Some(record) = self.chunks.get(chunk) else {
            return;
        };
        if record.state().phase != Phase::Backlog || record.failures.is_empty() {
            return;
        }
        let is_out = |worker: &WorkerId| workers.is_out(worker);
        let needed = &self.settings.needed_tags;
        let capacities = workers.healthy_capacities(needed);
        let able = match chunk.work {
            WorkKind::Analyze => workers.analyzers(needed),
            WorkKind::Render | WorkKind::Border | WorkKind::SpotCheck => {
                self.renderers(record, &capacities, estimator)
            }
        };
        if let Some(reason) = record.failures.verdict(&able, is_out) {
            self.apply(chunk, ChunkEvent::Blocked { reason });
        }
    }

    /// Those of the live workers with the job's tags, not set aside, that can render a chunk on a device that the job's
    /// settings allow.
    fn renderers(
        &self,
        record: &ChunkRecord,
        capacities: &[WorkerCapacity],
        estimator: &NeedEstimator,
    ) -> BTreeSet<WorkerId> {
        // The placement goes by these needs too: a worker that it gives nothing must not keep a chunk from being given up.
        let observations = |kind| estimator.observations(&self.spec.model, kind);
        let needs = self.settings.needs.corrected(observations);
        let choices = options(&needs, &record.memory, capacities);
        let allows_cpu = self.settings.cpu_fallback != CpuFallback::Never;
        let classes = [
            choices.gpu.map(|fit| fit.class),
            choices.cpu.map(|fit| fit.class).filter(|_| allows_cpu),
        ];
        let serves = |worker: &&WorkerCapacity| classes.iter().flatten().any(|class| worker.serves(*class));
        names(capacities.iter().filter(serves))
    }
}

fn names<'a>(workers: impl Iterator<Item = &'a WorkerCapacity>) -> BTreeSet<WorkerId> {
    workers.map(|worker| worker.worker.clone()).collect()
}
