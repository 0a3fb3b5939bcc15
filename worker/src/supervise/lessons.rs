//! What this worker's device has shown of a job's needs. Tasks that lay in the queue before it was known are planned by
//! it too, so that a wrong prediction costs a device one attempt a plan, and not one a task. What tasks took where they
//! succeeded is for the coordinator to weigh.

use latentfarm_common::digest::Digest;
use latentfarm_common::needs::{corrected, note, same_need};
use latentfarm_common::wire::job::ModelSpec;
use latentfarm_common::wire::memory::{MemoryConstraints, MemoryObservation, MemoryPlan, ObservedNeed};

/// What the memory and the time of a window depend on beside the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Shape {
    pub(super) weights: Digest,
    pub(super) resolution_px: u32,
    pub(super) is_guided: bool,
}

impl Shape {
    pub(super) fn of(model: &ModelSpec) -> Self {
        Self {
            weights: model.weights,
            resolution_px: model.resolution_px,
            is_guided: model.is_guided(),
        }
    }
}

/// Of the job at hand; another one begins afresh.
#[derive(Debug, Default)]
pub(super) struct Lessons {
    shape: Option<Shape>,
    learned: Vec<MemoryObservation>,
}

impl Lessons {
    /// The task's plan with its needs corrected.
    pub(super) fn applied_to(
        &mut self,
        model: &ModelSpec,
        constraints: &MemoryConstraints,
    ) -> MemoryConstraints {
        let shape = Some(Shape::of(model));
        if self.shape != shape {
            self.learned.clear();
            self.shape = shape;
        }
        MemoryConstraints {
            needs: corrected(&constraints.needs, &self.learned),
            ..*constraints
        }
    }

    /// A task of `plan` ran out under `plan`, which needs more than `mib`.
    pub(super) fn ran_out(&mut self, constraints: &MemoryConstraints, plan: MemoryPlan, mib: u64) {
        let observation = MemoryObservation {
            plan: same_need(&constraints.needs, plan),
            need: ObservedNeed::MoreThan(mib),
        };
        note(&mut self.learned, observation);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use latentfarm_common::wire::memory::{DeviceKind, MemoryRequirements};

    fn model(guidance_scale: f32) -> ModelSpec {
        ModelSpec {
            weights: Digest::of(b"weights"),
            synthetic: true,
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

    fn chosen(lessons: &mut Lessons, model: &ModelSpec, free_mib: u64) -> Option<MemoryPlan> {
        let constraints = lessons.applied_to(model, &PLAN);
        constraints.needs.fastest_within(constraints.floor, free_mib)
    }

    #[test]
    fn a_plan_that_ran_out_is_not_tried_again_where_it_cannot_fit() {
        let (mut lessons, model) = (Lessons::default(), model(1.5));
        assert_eq!(
            chosen(&mut lessons, &model, 3900),
            Some(MemoryPlan::SequentialGuidance)
        );
        lessons.ran_out(&PLAN, MemoryPlan::SequentialGuidance, 4200);
        assert_eq!(chosen(&mut lessons, &model, 3900), Some(MemoryPlan::Sliced));
        // Three plans need the same here: they are one.
        lessons.ran_out(&PLAN, MemoryPlan::Sliced, 4100);
        assert_eq!(chosen(&mut lessons, &model, 3900), Some(MemoryPlan::Offload));
        lessons.ran_out(&PLAN, MemoryPlan::Offload, 4000);
        assert_eq!(chosen(&mut lessons, &model, 3900), Some(MemoryPlan::Streamed));
        assert_eq!(chosen(&mut lessons, &model, 900), None);
    }

    #[test]
    fn another_job_begins_afresh() {
        let mut lessons = Lessons::default();
        assert!(chosen(&mut lessons, &model(1.5), 3900).is_some());
        lessons.ran_out(&PLAN, MemoryPlan::SequentialGuidance, 4200);
        assert_eq!(
            chosen(&mut lessons, &model(1.0), 3900),
            Some(MemoryPlan::SequentialGuidance)
        );
    }
}
