//! Chooses the memory plan under which a task goes on in place after the engine ran out of memory. The engine client asks
//! when a request to load, to encode audio or to render a window ends so.

use latentfarm_common::wire::memory::{MemoryConstraints, MemoryPlan, OutOfMemory};
use latentsync::cost::plan::plans_changing_bits;

/// Returns the plan under which the request that ended with `shortage` is sent again, or `None` if the attempt fails.
///
/// It is the fastest plan that is leaner, that is allowed, and that is predicted to fit in what there was; if no plan is
/// predicted to fit, the leanest of them is tried. Plans that need no less are no candidates: for a job that is kept to one
/// numeric kind the coordinator states the same need for all plans beyond the last one with equal bits. If windows of the chunk
/// `are_rendered` already, only plans that compute the same bits as the present one are candidates: a chunk has one numerics
/// fingerprint.
pub(super) fn leaner_plan(
    constraints: &MemoryConstraints,
    shortage: &OutOfMemory,
    are_rendered: bool,
) -> Option<MemoryPlan> {
    let (needs, failed) = (&constraints.needs, shortage.plan);
    let bits = |plan| plans_changing_bits(constraints.kind, plan);
    let mut candidates = MemoryPlan::ALL.into_iter().filter(|plan| {
        *plan > failed
            && *plan >= constraints.floor
            && needs.of(*plan) < needs.of(failed)
            && (!are_rendered || bits(*plan) == bits(failed))
    });
    // Less than what was needed must do, and no more than what the engine could have used.
    let needed_mib = shortage.needed_at_least_mib.unwrap_or(u64::MAX);
    let there_was_mib = needed_mib.min(shortage.free_before_mib);
    let fitting = candidates.clone().find(|plan| needs.of(*plan) <= there_was_mib);
    fitting.or_else(|| candidates.next_back())
}

#[cfg(test)]
mod tests {
    use latentfarm_common::wire::memory::{DeviceKind, MemoryRequirements, MemoryStage};

    use super::*;
    use MemoryPlan::{BatchedGuidance, Offload, SequentialGuidance, Sliced, Streamed};

    const CONSTRAINTS: MemoryConstraints = MemoryConstraints {
        kind: DeviceKind::Cuda,
        floor: MemoryPlan::BatchedGuidance,
        needs: MemoryRequirements {
            mib: [4400, 3800, 3400, 3400, 3200, 1000],
        },
    };

    fn shortage(plan: MemoryPlan, needed_at_least_mib: Option<u64>, free_before_mib: u64) -> OutOfMemory {
        OutOfMemory {
            kind: DeviceKind::Cuda,
            device: "cuda:0".to_owned(),
            stage: Some(MemoryStage::Load),
            plan,
            needed_at_least_mib,
            free_before_mib,
            suspected: false,
        }
    }

    #[test]
    fn the_fastest_leaner_plan_that_is_predicted_to_fit_is_taken_or_else_the_leanest() {
        let next = |shortage| leaner_plan(&CONSTRAINTS, &shortage, false);
        assert_eq!(
            next(shortage(BatchedGuidance, Some(4600), 4500)),
            Some(SequentialGuidance)
        );
        assert_eq!(next(shortage(BatchedGuidance, Some(3500), 8000)), Some(Sliced));
        assert_eq!(next(shortage(BatchedGuidance, None, 3300)), Some(Offload));
        // The weights alone did not fit: plans that keep all of them on the device are passed over.
        assert_eq!(next(shortage(BatchedGuidance, Some(2600), 2600)), Some(Streamed));
        assert_eq!(
            next(shortage(BatchedGuidance, Some(900), 900)),
            Some(Streamed),
            "the last resort"
        );
        assert_eq!(next(shortage(Streamed, Some(900), 900)), None);
        // A plan that needs as much is not tried.
        assert_eq!(next(shortage(Sliced, Some(3500), 3500)), Some(Offload));
    }

    #[test]
    fn a_chunk_of_which_windows_are_rendered_keeps_its_bits() {
        let next = |kind, plan| {
            let constraints = MemoryConstraints { kind, ..CONSTRAINTS };
            leaner_plan(&constraints, &shortage(plan, Some(3900), 3900), true)
        };
        assert_eq!(next(DeviceKind::Cuda, BatchedGuidance), None);
        assert_eq!(next(DeviceKind::Cuda, SequentialGuidance), None);
        assert_eq!(next(DeviceKind::Cuda, Sliced), Some(Offload));
        assert_eq!(next(DeviceKind::Cpu, BatchedGuidance), Some(SequentialGuidance));
    }
}
