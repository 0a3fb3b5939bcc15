//! How the machines of one numeric kind can take a chunk that is rendered again beside the job.

use latentfarm_common::numeric_kind::NumericKind;
use latentfarm_common::wire::memory::MemoryPlan;

use super::job::Job;
use super::need_estimator::NeedEstimator;
use crate::placement::{ChunkMemory, CpuFallback, Fit, WorkerCapacity, options};

impl Job {
    /// How the machines of a numeric kind among these can take a usual chunk of the job, under a plan from `first` to
    /// `last` on a GPU; `None` if they cannot.
    pub(super) fn fit_of_kind(
        &self,
        kind: NumericKind,
        (first, last): (MemoryPlan, MemoryPlan),
        capacities: &[WorkerCapacity],
        estimator: &NeedEstimator,
    ) -> Option<Fit> {
        let own = capacities.iter().filter(|worker| worker.kind == Some(kind));
        let own: Vec<WorkerCapacity> = own.cloned().collect();
        let observations = |device| estimator.observations(&self.spec.model, device);
        let needs = self.settings.needs.corrected(observations).up_to(last);
        let choices = options(&needs, &ChunkMemory::default(), &own);
        let choices = choices.of_kind(kind).from_plan(first);
        let cpu = choices
            .cpu
            .filter(|_| self.settings.cpu_fallback != CpuFallback::Never);
        choices.gpu.or(cpu)
    }
}
