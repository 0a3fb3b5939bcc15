//! Properties of the out-of-memory policy and of the placement, for any needs, workers and failures.

use latentfarm_common::queues::{CPU_CLASSES_MIB, GPU_CLASSES_MIB};
use proptest::prelude::*;

use super::*;

fn ladder() -> impl Strategy<Value = MemoryRequirements> {
    proptest::array::uniform6(1_u64..100_000).prop_map(|mut mib| {
        mib.sort_unstable_by(|a, b| b.cmp(a));
        MemoryRequirements { mib }
    })
}

fn farm() -> impl Strategy<Value = Vec<WorkerCapacity>> {
    let mib = || prop::option::of(1_u64..160_000);
    prop::collection::vec(
        (mib(), mib()).prop_map(|(host, device)| worker("w", host, device)),
        0..5,
    )
}

/// The failure of an attempt on the smallest worker that may pull the task; `None` if it succeeded.
/// `reporting` decides how much the report says about the need.
fn attempt(fit: &Fit, capacities: &[WorkerCapacity], truth: &JobNeeds, reporting: u8) -> Option<OutOfMemory> {
    let kind = fit.constraints.kind;
    let servers = capacities.iter().filter(|worker| worker.serves(fit.class));
    let free = servers
        .filter_map(|worker| worker.capacity.of(kind))
        .min()
        .unwrap()
        - truth.overhead_mib(kind);
    let plan = fit
        .constraints
        .needs
        .fastest_within(fit.constraints.floor, free)
        .unwrap();
    let needed = truth.of(kind).unwrap().of(plan);
    let reported = match reporting {
        0 => None,
        1 => Some(free + 1),
        _ => Some(needed),
    };
    (needed > free).then(|| OutOfMemory {
        suspected: reporting == 3,
        ..oom(kind, plan, reported)
    })
}

/// How much each attempt reports; often never anything, which takes the most steps.
fn reporting() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(vec![0]),
        Just(vec![3]),
        prop::collection::vec(0_u8..4, 1..30)
    ]
}

proptest! {
    #[test]
    fn running_out_is_always_a_step_up_a_finite_ladder_and_never_below_a_bound(
        predicted in (ladder(), ladder()),
        truth in (ladder(), ladder()),
        capacities in farm(),
        reporting in reporting(),
        fallback in prop::sample::select(vec![CpuFallback::Never, CpuFallback::Last, CpuFallback::Always]),
    ) {
        let needs = |pair: (MemoryRequirements, MemoryRequirements)| JobNeeds { cpu: Some(pair.0), cuda: Some(pair.1), media_mib: 300 };
        let (predicted, truth) = (needs(predicted), needs(truth));
        let mut memory = ChunkMemory::default();
        let mut reports = reporting.iter().cycle();
        let honest = reporting.iter().all(|reporting| *reporting == 2);
        let limit = 2 * (MemoryPlan::COUNT + 2 * (GPU_CLASSES_MIB.len() + CPU_CLASSES_MIB.len()));
        let mut steps = 0;
        loop {
            let candidate = Candidate { frames: 16, options: options(&predicted, &memory, &capacities), queued_in: None };
            match solve(fallback, &[candidate], &Load::default()).remove(0) {
                Placement::Wait { .. } => {
                    // If every need was reported, no queue that would do was ruled out.
                    let allowed = |kind| kind == DeviceKind::Cuda || fallback != CpuFallback::Never;
                    for kind in [DeviceKind::Cuda, DeviceKind::Cpu] {
                        if honest && allowed(kind) {
                            let need = truth.of(kind).unwrap().leanest().max(predicted.of(kind).unwrap().leanest());
                            let class = super::oom_policy::class_for(kind, need + predicted.overhead_mib(kind));
                            prop_assert!(!class.is_some_and(|class| capacities.iter().any(|m| m.serves(class))));
                        }
                    }
                    break;
                }
                Placement::Queue { fit, .. } => {
                    let kind = fit.constraints.kind;
                    prop_assert!(fit.class.mib() >= bound(&memory, kind) + predicted.overhead_mib(kind));
                    let Some(oom) = attempt(&fit, &capacities, &truth, *reports.next().unwrap()) else { break };
                    let before = memory;
                    memory.record_oom(&oom, Some(fit.class), predicted.of(kind).unwrap(), predicted.overhead_mib(kind));
                    prop_assert_ne!(before, memory);
                }
            }
            steps += 1;
            prop_assert!(steps <= limit, "{} steps", steps);
        }
    }
}

proptest! {
    // At rates at which GPUs and CPUs are near a tie, a placement could alternate. Many cases are needed to
    // meet one.
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn solving_again_changes_nothing(
        kinds in prop::collection::vec((0_u8..4, 1_u64..480, any::<bool>()), 0..20),
        load in (0_usize..4, 0_usize..4, 0_u64..500, 0_usize..3,
            prop::option::of(1.0_f64..1000.0), prop::option::of(1.0_f64..1000.0)),
        fallback in prop::sample::select(vec![CpuFallback::Never, CpuFallback::Last, CpuFallback::Always]),
    ) {
        let (gpu_workers, cpu_workers, gpu_frames, cpu_chunks, gpu_frame_ms, cpu_frame_ms) = load;
        let load = Load { gpu_workers, cpu_workers, gpu_frames, cpu_chunks, gpu_frame_ms, cpu_frame_ms };
        let mut candidates: Vec<Candidate> = kinds
            .into_iter()
            .map(|(kind, frames, queued)| {
                let mut candidate = both(queued.then_some("cpu16"));
                candidate.frames = frames;
                if kind & 1 == 1 { candidate.options.gpu = None; }
                if kind & 2 == 2 { candidate.options.cpu = None; }
                candidate
            })
            .collect();
        let once = solve(fallback, &candidates, &load);
        for (candidate, placement) in candidates.iter_mut().zip(&once) {
            candidate.queued_in = placement.lane();
        }
        prop_assert_eq!(solve(fallback, &candidates, &load), once);
    }
}
