//! How one chunk can be rendered by the workers of the farm: the queues and memory plans between which the placement chooses.
//! The placer asks for each chunk that no worker has begun.

use latentfarm_common::numeric_kind::NumericKind;
use latentfarm_common::wire::memory::MemoryPlan;

use crate::job::record::ChunkRecord;
use crate::placement::{ChunkMemory, CpuFallback, JobNeeds, Options, WorkerCapacity, options};

/// How some machines, which are of one numeric kind if that is given, can take a chunk that has not failed for memory.
pub(super) fn usual(kind: Option<NumericKind>, needs: &JobNeeds, own: &[WorkerCapacity]) -> Options {
    match kind {
        None => options(needs, &ChunkMemory::default(), own),
        Some(_) => options_rounding_alike(needs, own),
    }
}

/// How a chunk can be rendered by the first of these machines, which are of the kind that is chosen for it; or by any of
/// all, if it needs more memory than those have.
pub(super) fn choices(
    record: &ChunkRecord,
    needs: &JobNeeds,
    kind: Option<NumericKind>,
    usual: &Options,
    (own, all): (&[WorkerCapacity], &[WorkerCapacity]),
    fallback: CpuFallback,
) -> Options {
    let choices = options_of(record, needs, usual, own, fallback);
    match kind {
        None => choices,
        Some(kind) if choices.any(fallback) => choices.of_kind(kind),
        Some(_) => options(needs, &record.memory, all),
    }
}

/// How a chunk that some workers have tried in vain can be rendered by the others, the first of these machines if that is
/// possible; `None` if no worker has, or all have.
pub(super) fn untried(
    record: &ChunkRecord,
    needs: &JobNeeds,
    kind: Option<NumericKind>,
    (own, all): (&[WorkerCapacity], &[WorkerCapacity]),
    fallback: CpuFallback,
) -> Option<Options> {
    let has_tried = |machine: &WorkerCapacity| record.failures.has_tried(&machine.worker);
    if record.failures.is_empty() || !all.iter().any(has_tried) {
        return None;
    }
    let others = |machines: &[WorkerCapacity]| -> Vec<WorkerCapacity> {
        let others = machines.iter().filter(|machine| !has_tried(machine));
        others.cloned().collect()
    };
    let (own, all) = (others(own), others(all));
    let usual = usual(kind, needs, &own);
    let choices = choices(record, needs, kind, &usual, (&own, &all), fallback);
    let choices = if choices.any(fallback) {
        choices
    } else {
        options(needs, &record.memory, &all)
    };
    choices.any(fallback).then_some(choices)
}

/// How workers of one numeric kind can take a usual chunk under memory plans that give equal bits: the plans that most of
/// them have the memory for, and of several such groups the fastest.
fn options_rounding_alike(needs: &JobNeeds, capacities: &[WorkerCapacity]) -> Options {
    let groups = MemoryPlan::equal_on_cuda().map(|(first, last)| {
        options(&needs.up_to(last), &ChunkMemory::default(), capacities).from_plan(first)
    });
    let served = |options: &Options| {
        let serves = |worker: &&WorkerCapacity| options.gpu.is_some_and(|fit| worker.serves(fit.class));
        capacities.iter().filter(serves).count()
    };
    // Of equal ones the last is chosen, so they are looked at from the leanest on.
    let best = groups.into_iter().rev().max_by_key(served);
    best.unwrap_or_default()
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
        if above.any(fallback) {
            return above;
        }
    }
    if record.memory == ChunkMemory::default() {
        usual.clone()
    } else {
        options(needs, &record.memory, capacities)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use latentfarm_common::tags::Tags;
    use latentfarm_common::wire::memory::{MemoryRequirements, RenderMemory};

    fn gpu(device_mib: u64) -> WorkerCapacity {
        let memory = RenderMemory {
            host_mib: None,
            device_mib: Some(device_mib),
        };
        WorkerCapacity {
            tags: Tags::NONE,
            worker: "gpu".parse().unwrap(),
            kind: Some(NumericKind::of("gpu")),
            capacity: memory,
            alone: memory,
        }
    }

    /// The plan that each of some cards chooses for a chunk of a job that is kept to one kind; `None` for a card that does
    /// not get it.
    fn plans(cards: &[u64]) -> Vec<Option<MemoryPlan>> {
        let needs = JobNeeds {
            cpu: None,
            cuda: Some(MemoryRequirements {
                mib: [6000, 5000, 4000, 4000, 3000, 2500],
            }),
            media_mib: 0,
        };
        let capacities: Vec<WorkerCapacity> = cards.iter().copied().map(gpu).collect();
        let fit = options_rounding_alike(&needs, &capacities).gpu.unwrap();
        let constraints = fit.constraints;
        let chosen = cards.iter().zip(&capacities).map(|(free, card)| {
            let serves = card.serves(fit.class);
            serves.then(|| {
                constraints
                    .needs
                    .fastest_within(constraints.floor, *free)
                    .unwrap()
            })
        });
        chosen.collect()
    }

    #[test]
    fn cards_of_one_kind_use_memory_plans_that_round_alike() {
        use MemoryPlan::{BatchedGuidance, Offload, Sliced};
        assert_eq!(plans(&[8192, 8192]), [Some(BatchedGuidance); 2]);
        // Three cards with a leaner plan are better than one with the fastest, which has the smaller ones idle.
        assert_eq!(plans(&[8192, 4096, 4096]), [Some(Sliced); 3]);
        // Sliced does not fit, and what does gives the same bits.
        assert_eq!(plans(&[4096, 3072]), [Some(Sliced), Some(Offload)]);
        // A card that is too small for everything changes nothing.
        assert_eq!(plans(&[8192, 2048]), [Some(BatchedGuidance), None]);
    }
}
