//! Gives up the chunks that have failed on enough workers, and lets those that failed on all workers of their queue
//! be run by others. The dispatcher calls it after each failure, and on each tick, as workers come and go.

use std::collections::BTreeSet;

use latentfarm_common::ids::{ChunkId, WorkKind, WorkerId};
use latentfarm_common::wire::memory::DeviceKind;

use super::job::Job;
use super::workers::Workers;
use crate::job::chunk::event::ChunkEvent;
use crate::job::chunk::state::Phase;
use crate::job::record::{ChunkRecord, Detour};
use crate::placement::{CpuFallback, WorkerCapacity, options};

impl Job {
    /// Gives up the chunks of the backlog that have failed on enough workers.
    pub(super) fn give_up_failing(&mut self, workers: &Workers) {
        let fails =
            |record: &ChunkRecord| record.state().phase == Phase::Backlog && !record.failures.is_empty();
        for chunk in self.chunks.ids(fails) {
            self.give_up_if_failing(chunk, workers);
        }
    }

    /// Gives up a chunk of the backlog if it has failed on enough workers, or takes it to others.
    pub(super) fn give_up_if_failing(&mut self, chunk: ChunkId, workers: &Workers) {
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
            WorkKind::Render | WorkKind::Border | WorkKind::SpotCheck => self.renderers(record, &capacities),
        };
        if let Some(reason) = record.failures.verdict(&able, is_out) {
            self.apply(chunk, ChunkEvent::Blocked { reason });
            return;
        }
        let detour = detour(record, &capacities);
        if let Some(record) = self.chunks.get_mut(chunk)
            && detour > record.detour
        {
            tracing::info!(%chunk, ?detour, "the chunk has failed on all workers of its queue, and may leave it");
            record.detour = detour;
            record.scheduled = None;
        }
    }

    /// Those of the live workers with the job's tags, not set aside, that can render a chunk on a device that the job's
    /// settings allow.
    fn renderers(&self, record: &ChunkRecord, capacities: &[WorkerCapacity]) -> BTreeSet<WorkerId> {
        let choices = options(&self.settings.needs, &record.memory, capacities);
        let allows_cpu = self.settings.cpu_fallback != CpuFallback::Never;
        let classes = [
            record.published.map(|fit| fit.class),
            choices.gpu.map(|fit| fit.class),
            choices.cpu.map(|fit| fit.class).filter(|_| allows_cpu),
        ];
        let serves = |worker: &&WorkerCapacity| classes.iter().flatten().any(|class| worker.serves(*class));
        names(capacities.iter().filter(serves))
    }
}

/// How far the chunk may leave the machines that it is placed on: it does if it has failed on all of these.
fn detour(record: &ChunkRecord, capacities: &[WorkerCapacity]) -> Detour {
    let Some(fit) = record.published else {
        return record.detour;
    };
    let covers = |of: &dyn Fn(&WorkerCapacity) -> bool| {
        let of_them = names(capacities.iter().filter(|worker| of(worker)));
        record.failures.cover(&of_them)
    };
    if covers(&|worker| worker.serves(fit.class)) && fit.class.kind() == Some(DeviceKind::Cuda) {
        Detour::Cpu
    } else if fit.kind.is_some() && covers(&|worker| worker.takes(fit.lane())) {
        Detour::AnyKind
    } else {
        record.detour
    }
}

fn names<'a>(workers: impl Iterator<Item = &'a WorkerCapacity>) -> BTreeSet<WorkerId> {
    workers.map(|worker| worker.worker.clone()).collect()
}
