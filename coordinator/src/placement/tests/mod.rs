use latentfarm_common::tags::Tags;
use latentfarm_common::wire::memory::{
    DeviceKind, MemoryPlan, MemoryRequirements, OutOfMemory, RenderMemory,
};

use super::*;

mod properties;

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

fn worker(name: &str, host_mib: Option<u64>, device_mib: Option<u64>) -> WorkerCapacity {
    WorkerCapacity {
        tags: Tags::NONE,
        worker: name.parse().unwrap(),
        kind: None,
        capacity: RenderMemory { host_mib, device_mib },
        alone: RenderMemory { host_mib, device_mib },
    }
}

fn gpu(mib: u64) -> WorkerCapacity {
    worker("gpu", None, Some(mib))
}

fn cpu(mib: u64) -> WorkerCapacity {
    worker("cpu", Some(mib), None)
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

/// The highest lower bound that is known for the need of the leanest plan, in MiB; 0 if none is known.
fn bound(memory: &ChunkMemory, kind: DeviceKind) -> u64 {
    let nothing = MemoryRequirements {
        mib: [0; MemoryPlan::COUNT],
    };
    memory.needs(kind, &nothing).leanest()
}

fn name(placement: &Placement) -> String {
    placement
        .lane()
        .map_or_else(|| "wait".to_owned(), |lane| lane.to_string())
}

fn place(fallback: CpuFallback, memory: &ChunkMemory, capacities: &[WorkerCapacity]) -> Placement {
    let candidate = Candidate {
        frames: 16,
        options: options(&needs(), memory, capacities),
        queued_in: None,
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
    assert_eq!(name(&alone), "cpu12", "8000 MiB and the media child's 400");
}

#[test]
fn out_of_memory_raises_the_floor_then_the_class_then_leaves_the_cpu() {
    let capacities = [gpu(4100), cpu(64_000)];
    let mut memory = ChunkMemory::default();
    let first = oom(DeviceKind::Cuda, MemoryPlan::Sliced, Some(5500));
    assert_eq!(
        memory.record_oom(&first, None, &GPU, 0),
        OomDecision::RaiseFloor(MemoryPlan::Offload),
        "two-pass-norm saves nothing"
    );
    assert_eq!(name(&place(CpuFallback::Last, &memory, &capacities)), "g03");
    let third = oom(DeviceKind::Cuda, MemoryPlan::Offload, None);
    assert_eq!(
        memory.record_oom(&third, None, &GPU, 0),
        OomDecision::RaiseFloor(MemoryPlan::Streamed)
    );
    let fourth = oom(DeviceKind::Cuda, MemoryPlan::Streamed, Some(3200));
    assert_eq!(
        memory.record_oom(&fourth, None, &GPU, 0),
        OomDecision::RequireMemory(3200)
    );
    assert_eq!(name(&place(CpuFallback::Last, &memory, &capacities)), "g04");
    let fifth = oom(DeviceKind::Cuda, MemoryPlan::Streamed, Some(4200));
    assert_eq!(
        memory.record_oom(&fifth, None, &GPU, 0),
        OomDecision::RequireMemory(4200)
    );
    assert_eq!(name(&place(CpuFallback::Last, &memory, &capacities)), "cpu12");
    let never = place(CpuFallback::Never, &memory, &capacities);
    let Placement::Wait { shortages } = never else {
        panic!("{never:?}")
    };
    assert_eq!(
        shortages[0].to_string(),
        "needs 4.1 GiB, the largest free is 4.0 GiB"
    );
}

#[test]
fn a_chunk_that_runs_out_unexplained_is_retried_unchanged_once_before_it_requires_more() {
    let mut memory = ChunkMemory::default();
    let unexplained = oom(DeviceKind::Cuda, MemoryPlan::Streamed, Some(2000));
    assert_eq!(
        memory.record_oom(&unexplained, None, &GPU, 0),
        OomDecision::RetryUnchanged
    );
    assert_eq!(
        memory.record_oom(&unexplained, None, &GPU, 0),
        OomDecision::RequireMemory(3 * 1024 + 1)
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
        memory.record_oom(&killed, None, &CPU, 400),
        OomDecision::RaiseFloor(MemoryPlan::Sliced)
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
    assert_eq!(
        memory.record_oom(&first, None, &flat, 0),
        OomDecision::RequireMemory(5000)
    );
    assert_eq!(memory.needs(DeviceKind::Cpu, &flat).leanest(), 5000);
}

#[test]
fn a_late_shortage_of_a_plan_that_is_ruled_out_does_not_raise_the_floor_again() {
    let mut memory = ChunkMemory::default();
    let late = oom(DeviceKind::Cuda, MemoryPlan::Offload, None);
    assert_eq!(memory.floor(DeviceKind::Cuda), MemoryPlan::default());
    assert_eq!(
        memory.record_oom(&late, None, &GPU, 0),
        OomDecision::RaiseFloor(MemoryPlan::Streamed)
    );
    assert_eq!(
        memory.record_oom(&late, None, &GPU, 0),
        OomDecision::RetryUnchanged
    );
    assert_eq!(memory.floor(DeviceKind::Cuda), MemoryPlan::Streamed);
    assert_eq!(memory.floor(DeviceKind::Cpu), MemoryPlan::default());
}

#[test]
fn a_need_that_fills_its_class_to_the_last_mib_still_fits_it() {
    let flat = MemoryRequirements {
        mib: [3 * 1024; MemoryPlan::COUNT],
    };
    let mut memory = ChunkMemory::default();
    let exact = oom(DeviceKind::Cuda, MemoryPlan::Streamed, None);
    assert_eq!(
        memory.record_oom(&exact, None, &flat, 0),
        OomDecision::RetryUnchanged
    );
    assert_eq!(bound(&memory, DeviceKind::Cuda), 0);
    let bounded = oom(DeviceKind::Cuda, MemoryPlan::Streamed, Some(5000));
    assert_eq!(
        memory.record_oom(&bounded, None, &flat, 0),
        OomDecision::RequireMemory(5000)
    );
    assert_eq!(bound(&memory, DeviceKind::Cuda), 5000);
    assert_eq!(bound(&memory, DeviceKind::Cpu), 0);
}

#[test]
fn memory_is_written_in_gib_from_one_gib_on() {
    let texts = [0, 1023, 1024, 1536].map(crate::placement::gib);
    assert_eq!(texts, ["0 MiB", "1023 MiB", "1.0 GiB", "1.5 GiB"]);
}

#[test]
fn a_shortage_says_what_is_needed_and_what_there_is() {
    let waiting = options(&needs(), &ChunkMemory::default(), &[gpu(2600), cpu(4000)]);
    let texts: Vec<String> = waiting.shortages.iter().map(ToString::to_string).collect();
    assert_eq!(
        texts,
        [
            "needs 2.4 GiB (a queue of 3.0 GiB), the largest free is 2.5 GiB",
            "needs 8.2 GiB on the CPU, the largest free is 3.9 GiB"
        ]
    );
    let nobody = options(&needs(), &ChunkMemory::default(), &[worker("w", None, None)]);
    assert_eq!(nobody.shortages[0].to_string(), "needs 2.4 GiB, there is no GPU");
}

fn both(queued_in: Option<&str>) -> Candidate {
    Candidate {
        frames: 16,
        options: options(&needs(), &ChunkMemory::default(), &[gpu(8000), cpu(64_000)]),
        queued_in: queued_in.map(|text| text.parse().unwrap()),
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
    // 64 frames take the GPU 6.4 s, 16 frames the CPU 3.2 s; with 48 left, 4.8 s; with 32 left it pays no
    // more.
    assert_eq!(
        names(&solve(CpuFallback::Last, &line, &load)),
        ["g03", "g03", "cpu12", "cpu12"]
    );
    let slow = Load {
        cpu_frame_ms: Some(2000.0),
        ..load
    };
    assert_eq!(names(&solve(CpuFallback::Last, &line, &slow)), ["g03"; 4]);
    assert_eq!(
        names(&solve(CpuFallback::Always, &line, &slow)),
        ["g03", "g03", "cpu12", "cpu12"]
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
        names(&solve(CpuFallback::Last, &[both(Some("cpu12"))], &load)),
        ["g03"]
    );
}

fn reasons(placements: &[Placement]) -> Vec<&'static str> {
    let why = |placement: &Placement| match placement {
        Placement::Queue { why, .. } => *why,
        Placement::Wait { .. } => "wait",
    };
    placements.iter().map(why).collect()
}

#[test]
fn each_chunk_that_the_cpu_takes_leaves_less_for_the_gpus() {
    let load = Load {
        gpu_workers: 1,
        cpu_workers: 4,
        gpu_frame_ms: Some(100.0),
        cpu_frame_ms: Some(200.0),
        ..Load::default()
    };
    let line = vec![both(None); 4];
    let placed = solve(CpuFallback::Last, &line, &load);
    assert_eq!(names(&placed), ["g03", "g03", "cpu12", "cpu12"]);
    let (gpu, cpu) = (
        "the smallest GPU queue that holds its leanest plan",
        "the CPU is predicted to be done with it earlier",
    );
    assert_eq!(reasons(&placed), [gpu, gpu, cpu, cpu]);
    assert_eq!(
        reasons(&solve(CpuFallback::Always, &line, &load)),
        ["the CPU always helps"; 4]
    );
    // Two GPUs are done in 3.2 s, as soon as the CPU with one chunk.
    let twice = Load {
        gpu_workers: 2,
        ..load
    };
    assert_eq!(names(&solve(CpuFallback::Last, &line, &twice)), ["g03"; 4]);
    let mut queued = line.clone();
    queued[0] = both(Some("cpu12"));
    assert_eq!(names(&solve(CpuFallback::Last, &queued, &twice)), ["g03"; 4]);
    // A lead of 0.16 s keeps a chunk where it is queued, and is too little to send another one there.
    let ahead = Load {
        cpu_frame_ms: Some(190.0),
        ..twice
    };
    assert_eq!(names(&solve(CpuFallback::Last, &line, &ahead)), ["g03"; 4]);
    assert_eq!(
        names(&solve(CpuFallback::Last, &queued, &ahead)),
        ["cpu12", "g03", "g03", "g03"]
    );
}

#[test]
fn a_chunk_that_only_the_cpu_can_take_occupies_a_cpu_worker() {
    let load = Load {
        gpu_workers: 1,
        cpu_workers: 1,
        ..Load::default()
    };
    let mut only_cpu = both(None);
    only_cpu.options.gpu = None;
    let placed = solve(CpuFallback::Always, &[only_cpu, both(None)], &load);
    assert_eq!(names(&placed), ["cpu12", "g03"]);
    assert_eq!(reasons(&placed)[0], "no GPU can render it");
}

#[test]
fn a_chunk_that_waits_names_the_devices_that_it_may_use() {
    let candidate = Candidate {
        frames: 16,
        options: options(&needs(), &ChunkMemory::default(), &[gpu(100), cpu(100)]),
        queued_in: None,
    };
    let kinds = |fallback| match solve(fallback, std::slice::from_ref(&candidate), &Load::default()).remove(0)
    {
        Placement::Wait { shortages } => shortages.iter().map(|shortage| shortage.kind).collect::<Vec<_>>(),
        Placement::Queue { .. } => vec![],
    };
    assert_eq!(kinds(CpuFallback::Last), [DeviceKind::Cuda, DeviceKind::Cpu]);
    assert_eq!(kinds(CpuFallback::Never), [DeviceKind::Cuda]);
}
