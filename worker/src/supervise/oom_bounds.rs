//! Lower bounds of the memory that a job's plans need, from tasks that ran out of memory on this worker's
//! device.
//!
//! The warm engine corrects a task's requirements by them before it chooses a plan. Tasks that were queued
//! before the coordinator learned of an out-of-memory error are corrected too, so that a wrong prediction
//! costs a device one attempt a plan and not one a task. The coordinator alone learns from the use of tasks
//! that succeeded.

use latentfarm_common::digest::Digest;
use latentfarm_common::memory_estimate::{add_observation, corrected, same_need};
use latentfarm_common::wire::job::ModelSpec;
use latentfarm_common::wire::memory::{MemoryConstraints, MemoryObservation, MemoryPlan, ObservedNeed};

/// What the memory and the time of a window depend on, beside the memory plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct WindowShape {
    /// The digest that names the weights.
    pub(super) weights: Digest,
    pub(super) resolution_px: u32,
    pub(super) is_guided: bool,
}

impl WindowShape {
    pub(super) fn of(model: &ModelSpec) -> Self {
        Self {
            weights: model.weights,
            resolution_px: model.resolution_px,
            is_guided: model.is_guided(),
        }
    }
}

/// The bounds for tasks of one shape. They are dropped as soon as a task has another shape.
#[derive(Debug, Default)]
pub(super) struct LocalOomBounds {
    shape: Option<WindowShape>,
    observations: Vec<MemoryObservation>,
}

impl LocalOomBounds {
    /// Returns the task's memory constraints with its requirements corrected by the bounds.
    pub(super) fn apply(&mut self, model: &ModelSpec, constraints: &MemoryConstraints) -> MemoryConstraints {
        let shape = Some(WindowShape::of(model));
        if self.shape != shape {
            self.observations.clear();
            self.shape = shape;
        }
        MemoryConstraints {
            needs: corrected(&constraints.needs, &self.observations),
            ..*constraints
        }
    }

    /// Records that a task ran out of memory under `plan`, which therefore needs more than `mib`.
    pub(super) fn record(&mut self, constraints: &MemoryConstraints, plan: MemoryPlan, mib: u64) {
        let observation = MemoryObservation {
            plan: same_need(&constraints.needs, plan),
            need: ObservedNeed::MoreThan(mib),
        };
        add_observation(&mut self.observations, observation);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use latentfarm_common::wire::job::WeightsKind;
    use latentfarm_common::wire::memory::{DeviceKind, MemoryRequirements};

    fn model(guidance_scale: f32) -> ModelSpec {
        ModelSpec {
            weights: Digest::of(b"weights"),
            weights_kind: WeightsKind::Synthetic,
            resolution_px: 256,
            steps: 1,
            guidance_scale,
            seed: 0,
        }
    }

    const PLAN: MemoryConstraints = MemoryConstraints {
        kind: DeviceKind::Cuda,
        floor: MemoryPlan::BatchedGuidance,
        needs: MemoryRequirements {
            mib: [4400, 3800, 3400, 3400, 3200, 1000],
        },
    };

    fn chosen(oom_bounds: &mut LocalOomBounds, model: &ModelSpec, free_mib: u64) -> Option<MemoryPlan> {
        let constraints = oom_bounds.apply(model, &PLAN);
        constraints.needs.fastest_within(constraints.floor, free_mib)
    }

    #[test]
    fn a_plan_that_ran_out_is_not_tried_again_on_a_device_that_it_cannot_fit() {
        let (mut oom_bounds, model) = (LocalOomBounds::default(), model(1.5));
        assert_eq!(
            chosen(&mut oom_bounds, &model, 3900),
            Some(MemoryPlan::SequentialGuidance)
        );
        oom_bounds.record(&PLAN, MemoryPlan::SequentialGuidance, 4200);
        assert_eq!(chosen(&mut oom_bounds, &model, 3900), Some(MemoryPlan::Sliced));
        // Plans that need the same have one bound.
        oom_bounds.record(&PLAN, MemoryPlan::Sliced, 4100);
        assert_eq!(chosen(&mut oom_bounds, &model, 3900), Some(MemoryPlan::Offload));
        oom_bounds.record(&PLAN, MemoryPlan::Offload, 4000);
        assert_eq!(chosen(&mut oom_bounds, &model, 3900), Some(MemoryPlan::Streamed));
        assert_eq!(chosen(&mut oom_bounds, &model, 900), None);
    }

    #[test]
    fn a_job_of_another_shape_has_no_bounds() {
        let mut oom_bounds = LocalOomBounds::default();
        assert!(chosen(&mut oom_bounds, &model(1.5), 3900).is_some());
        oom_bounds.record(&PLAN, MemoryPlan::SequentialGuidance, 4200);
        assert_eq!(
            chosen(&mut oom_bounds, &model(1.0), 3900),
            Some(MemoryPlan::SequentialGuidance)
        );
    }
}
