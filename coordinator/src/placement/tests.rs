use latentfarm_common::queues::{CPU_CLASSES_GIB, GPU_CLASSES_GIB};
use latentfarm_common::wire::memory::{
    DeviceKind, MemoryPlan, MemoryRequirements, OutOfMemory, RenderMemory,
};
use proptest::prelude::*;

use super::oom_policy::offered;
use super::*;

const GPU: MemoryRequirements = MemoryRequirements {
    mib: [9000, 7000, 5000, 5000, 3500, 2500],
};
const CPU: MemoryRequirements = MemoryRequirements {
    mib: [12_000, 12_000, 9000, 9000, 8000, 8000],
};

fn needs() -> JobNeeds {
    JobNeeds {
        cpu: Some(CPU),
        cuda: Some(GPU),
        media_mib: 400,
    }
}

fn machine(name: &str, host_mib: Option<u64>, device_mib: Option<u64>) -> Machine {
    Machine {
        worker: name.parse().unwrap(),
        capacity: RenderMemory { host_mib, device_mib },
    }
}

fn gpu(mib: u64) -> Machine {
    machine("gpu", None, Some(mib))
}

fn cpu(mib: u64) -> Machine {
    machine("cpu", Some(mib), None)
}

fn oom(kind: DeviceKind, plan: MemoryPlan, needed: Option<u64>) -> OutOfMemory {
    OutOfMemory {
        kind,
        device: kind.to_string(),
        stage: None,
        plan,
        needed_at_least_mib: needed,
        free_before_mib: 0,
        suspected: false,
    }
}

fn name(placement: &Placement) -> String {
    placement
        .class()
        .map_or_else(|| "wait".to_owned(), |class| class.to_string())
}

fn place(fallback: CpuFallback, memory: &ChunkMemory, machines: &[Machine]) -> Placement {
    let candidate = Candidate {
        frames: 16,
        options: options(&needs(), memory, machines),
        at: None,
    };
    solve(fallback, &[candidate], &Load::default()).remove(0)
}

#[test]
fn the_class_is_the_need_of_the_leanest_plan() {
    let placed = place(
        CpuFallback::Last,
        &ChunkMemory::default(),
        &[gpu(24_000), cpu(64_000)],
    );
    assert_eq!(name(&placed), "g03");
    let alone = place(CpuFallback::Last, &ChunkMemory::default(), &[cpu(64_000)]);
    assert_eq!(name(&alone), "cpu16", "8000 MiB and the media child's 400");
}

#[test]
fn out_of_memory_raises_the_floor_then_the_class_then_leaves_the_cpu() {
    let machines = [gpu(4100), cpu(64_000)];
    let mut memory = ChunkMemory::default();
    let first = oom(DeviceKind::Cuda, MemoryPlan::Sliced, Some(5500));
    assert_eq!(
        memory.note(&first, None, &GPU, 0),
        Raised::Floor(MemoryPlan::Offload),
        "two-pass-norm saves nothing"
    );
    assert_eq!(name(&place(CpuFallback::Last, &memory, &machines)), "g03");
    let third = oom(DeviceKind::Cuda, MemoryPlan::Offload, None);
    assert_eq!(
        memory.note(&third, None, &GPU, 0),
        Raised::Floor(MemoryPlan::Streamed)
    );
    let fourth = oom(DeviceKind::Cuda, MemoryPlan::Streamed, Some(3200));
    assert_eq!(memory.note(&fourth, None, &GPU, 0), Raised::ResourceClass(3200));
    assert_eq!(name(&place(CpuFallback::Last, &memory, &machines)), "g04");
    let fifth = oom(DeviceKind::Cuda, MemoryPlan::Streamed, Some(4200));
    assert_eq!(memory.note(&fifth, None, &GPU, 0), Raised::ResourceClass(4200));
    assert_eq!(name(&place(CpuFallback::Last, &memory, &machines)), "cpu16");
    let never = place(CpuFallback::Never, &memory, &machines);
    let Placement::Wait { shortages } = never else {
        panic!("{never:?}")
    };
    assert_eq!(
        shortages[0].to_string(),
        "needs 4.1 GiB, the largest free is 4.0 GiB"
    );
}

#[test]
fn a_squeezed_chunk_tries_its_place_once_more_before_it_asks_for_a_larger_one() {
    let mut memory = ChunkMemory::default();
    let squeezed = oom(DeviceKind::Cuda, MemoryPlan::Streamed, Some(2000));
    assert_eq!(memory.note(&squeezed, None, &GPU, 0), Raised::Nothing);
    assert_eq!(
        memory.note(&squeezed, None, &GPU, 0),
        Raised::ResourceClass(3 * 1024 + 1)
    );
}

#[test]
fn a_suspicion_raises_the_floor_and_rules_no_place_out() {
    let mut memory = ChunkMemory::default();
    let killed = OutOfMemory {
        suspected: true,
        needed_at_least_mib: Some(90_000),
        ..oom(DeviceKind::Cpu, MemoryPlan::default(), None)
    };
    assert_eq!(
        memory.note(&killed, None, &CPU, 400),
        Raised::Floor(MemoryPlan::Sliced)
    );
    assert_eq!(memory.needs(DeviceKind::Cpu, &CPU), CPU);
}

#[test]
fn with_every_plan_alike_the_class_rises_at_once() {
    let flat = MemoryRequirements {
        mib: [3000; MemoryPlan::COUNT],
    };
    let mut memory = ChunkMemory::default();
    let first = oom(DeviceKind::Cpu, MemoryPlan::default(), Some(5000));
    assert_eq!(memory.note(&first, None, &flat, 0), Raised::ResourceClass(5000));
    assert_eq!(memory.needs(DeviceKind::Cpu, &flat).leanest(), 5000);
}

#[test]
fn a_shortage_says_what_is_needed_and_what_there_is() {
    let waiting = options(&needs(), &ChunkMemory::default(), &[gpu(2600), cpu(4000)]);
    let said: Vec<String> = waiting.shortages.iter().map(ToString::to_string).collect();
    assert_eq!(
        said,
        [
            "needs 2.4 GiB (a queue of 3.0 GiB), the largest free is 2.5 GiB",
            "needs 8.2 GiB on the CPU, the largest free is 3.9 GiB"
        ]
    );
    let nobody = options(&needs(), &ChunkMemory::default(), &[machine("w", None, None)]);
    assert_eq!(nobody.shortages[0].to_string(), "needs 2.4 GiB, there is no GPU");
}

fn both(at: Option<&str>) -> Candidate {
    Candidate {
        frames: 16,
        options: options(&needs(), &ChunkMemory::default(), &[gpu(8000), cpu(64_000)]),
        at: at.map(|text| text.parse().unwrap()),
    }
}

fn names(placements: &[Placement]) -> Vec<String> {
    placements.iter().map(name).collect()
}

#[test]
fn the_cpu_takes_from_the_end_of_the_line_when_it_is_done_earlier() {
    let load = Load {
        gpu_workers: 1,
        cpu_workers: 2,
        gpu_frame_ms: Some(100.0),
        cpu_frame_ms: Some(200.0),
        ..Load::default()
    };
    let line = vec![both(None); 4];
    // 64 frames take the GPU 6.4 s, 16 frames the CPU 3.2 s; with 48 left, 4.8 s; with 32 left it pays no more.
    assert_eq!(
        names(&solve(CpuFallback::Last, &line, &load)),
        ["g03", "g03", "cpu16", "cpu16"]
    );
    let slow = Load {
        cpu_frame_ms: Some(2000.0),
        ..load
    };
    assert_eq!(names(&solve(CpuFallback::Last, &line, &slow)), ["g03"; 4]);
    assert_eq!(
        names(&solve(CpuFallback::Always, &line, &slow)),
        ["g03", "g03", "cpu16", "cpu16"]
    );
    assert_eq!(names(&solve(CpuFallback::Never, &line, &load)), ["g03"; 4]);
    let unknown = Load {
        cpu_frame_ms: None,
        ..load
    };
    assert_eq!(names(&solve(CpuFallback::Last, &line, &unknown)), ["g03"; 4]);
    let busy = Load {
        cpu_chunks: 2,
        ..load
    };
    assert_eq!(names(&solve(CpuFallback::Always, &line, &busy)), ["g03"; 4]);
}

#[test]
fn a_gpu_that_frees_up_takes_back_what_the_cpu_has_not_begun() {
    let load = Load {
        gpu_workers: 1,
        cpu_workers: 1,
        gpu_frame_ms: Some(100.0),
        cpu_frame_ms: Some(200.0),
        ..Load::default()
    };
    assert_eq!(
        names(&solve(CpuFallback::Last, &[both(Some("cpu16"))], &load)),
        ["g03"]
    );
}

fn ladder() -> impl Strategy<Value = MemoryRequirements> {
    proptest::array::uniform6(1_u64..100_000).prop_map(|mut mib| {
        mib.sort_unstable_by(|a, b| b.cmp(a));
        MemoryRequirements { mib }
    })
}

fn farm() -> impl Strategy<Value = Vec<Machine>> {
    let mib = || prop::option::of(1_u64..160_000);
    prop::collection::vec(
        (mib(), mib()).prop_map(|(host, device)| machine("w", host, device)),
        0..5,
    )
}

/// What an attempt on the smallest machine that may pull it comes to; `None`: it succeeded.
fn attempt(fit: &Fit, machines: &[Machine], truth: &JobNeeds, telling: u8) -> Option<OutOfMemory> {
    let kind = fit.constraints.kind;
    let servers = machines.iter().filter(|machine| machine.serves(fit.class));
    let free = servers
        .filter_map(|machine| machine.capacity.of(kind))
        .min()
        .unwrap()
        - truth.beside(kind);
    let plan = fit
        .constraints
        .needs
        .fastest_within(fit.constraints.floor, free)
        .unwrap();
    let needed = truth.of(kind).unwrap().of(plan);
    let told = match telling {
        0 => None,
        1 => Some(free + 1),
        _ => Some(needed),
    };
    (needed > free).then(|| OutOfMemory {
        suspected: telling == 3,
        ..oom(kind, plan, told)
    })
}

/// What each attempt tells; often never anything, which is the longest way up.
fn telling() -> impl Strategy<Value = Vec<u8>> {
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
        machines in farm(),
        telling in telling(),
        fallback in prop::sample::select(vec![CpuFallback::Never, CpuFallback::Last, CpuFallback::Always]),
    ) {
        let needs = |pair: (MemoryRequirements, MemoryRequirements)| JobNeeds { cpu: Some(pair.0), cuda: Some(pair.1), media_mib: 300 };
        let (predicted, truth) = (needs(predicted), needs(truth));
        let mut memory = ChunkMemory::default();
        let mut told = telling.iter().cycle();
        let honest = telling.iter().all(|telling| *telling == 2);
        let limit = 2 * (MemoryPlan::COUNT + 2 * (GPU_CLASSES_GIB.len() + CPU_CLASSES_GIB.len()));
        let mut steps = 0;
        loop {
            let candidate = Candidate { frames: 16, options: options(&predicted, &memory, &machines), at: None };
            match solve(fallback, &[candidate], &Load::default()).remove(0) {
                Placement::Wait { .. } => {
                    // With every need told, nothing is ruled out that would do.
                    let allowed = |kind| kind == DeviceKind::Cuda || fallback != CpuFallback::Never;
                    for kind in [DeviceKind::Cuda, DeviceKind::Cpu] {
                        if honest && allowed(kind) {
                            let need = truth.of(kind).unwrap().leanest().max(predicted.of(kind).unwrap().leanest());
                            let class = super::oom_policy::class_for(kind, need + predicted.beside(kind));
                            prop_assert!(!class.is_some_and(|class| machines.iter().any(|m| m.serves(class))));
                        }
                    }
                    break;
                }
                Placement::Queue { fit, .. } => {
                    let kind = fit.constraints.kind;
                    prop_assert!(offered(fit.class) >= memory.bound(kind) + predicted.beside(kind));
                    let Some(oom) = attempt(&fit, &machines, &truth, *told.next().unwrap()) else { break };
                    let before = memory;
                    memory.note(&oom, Some(fit.class), predicted.of(kind).unwrap(), predicted.beside(kind));
                    prop_assert_ne!(before, memory);
                }
            }
            steps += 1;
            prop_assert!(steps <= limit, "{} steps", steps);
        }
    }
}

proptest! {
    // Rates at which GPUs and CPUs are near a tie, where a placement could swing; often enough to meet one.
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
            candidate.at = placement.class();
        }
        prop_assert_eq!(solve(fallback, &candidates, &load), once);
    }
}
