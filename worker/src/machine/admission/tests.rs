use latentfarm_common::queues::{CPU_CLASSES_MIB, GPU_CLASSES_MIB, ResourceClass, fitting};
use latentfarm_common::tags::Tags;
use latentfarm_common::wire::memory::{DeviceKind, MemoryRequirements};

use super::*;

const GIB: u64 = 1024;
const LIMITS: MemoryLimits = MemoryLimits {
    reserve_mib: None,
    reserve_device_mib: None,
    memory_limit_mib: None,
};

fn host(free_gib: u64) -> HostState {
    HostState {
        free_mib: free_gib * GIB,
        total_mib: 64 * GIB,
        ..HostState::default()
    }
}

fn gpu(free_mib: u64, total_gib: u64) -> GpuState {
    GpuState {
        free_mib,
        total_mib: total_gib * GIB,
        ..GpuState::default()
    }
}

/// Returns the largest class of each kind that fits, and checks that all smaller ones do too.
fn classes(available: &Available) -> String {
    let queues = fitting(available, None, &Tags::NONE)
        .into_iter()
        .filter(|queue| queue.priority == 0);
    let classes: Vec<ResourceClass> = queues.map(|queue| queue.lane.class).collect();
    let count =
        |all: &[u32], mib: Option<u64>| all.iter().filter(|class| Some(u64::from(**class)) <= mib).count();
    let memory = available.memory;
    let renders = count(&CPU_CLASSES_MIB, memory.host_mib) + count(&GPU_CLASSES_MIB, memory.device_mib);
    assert_eq!(classes.len(), renders + usize::from(available.analyze));
    let is_first = |index: usize| {
        let before = index.checked_sub(1).map(|before| classes[before]);
        before.is_none_or(|before| std::mem::discriminant(&before) != std::mem::discriminant(&classes[index]))
    };
    let largest = (0..classes.len()).filter(|index| is_first(*index));
    let names: Vec<String> = largest.map(|index| classes[index].to_string()).collect();
    names.join(" ")
}

fn on_gpu(state: GpuState) -> Snapshot {
    Snapshot {
        host: host(16),
        device: DeviceState::Gpu(Some(state)),
    }
}

fn on_cpu(host: HostState) -> Snapshot {
    Snapshot {
        host,
        device: DeviceState::Cpu,
    }
}

#[test]
fn machines_pull_from_the_queues_that_fit_largest_first() {
    let nothing_on_host = Snapshot {
        host: host(0),
        ..on_gpu(gpu(24 * GIB, 24))
    };
    let tenant = GpuState {
        reserved_by_others_mib: 6 * GIB,
        ..gpu(13 * GIB, 24)
    };
    let warm = GpuState {
        engine_mib: 5 * GIB,
        ..gpu(2 * GIB, 8)
    };
    let container = HostState {
        free_mib: 4 * GIB + 800,
        total_mib: 6 * GIB,
        ..HostState::default()
    };
    let warm_cpu = HostState {
        free_mib: GIB,
        engine_mib: 4 * GIB,
        media_mib: 200,
        ..host(0)
    };
    let reserved = HostState {
        reserved_by_others_mib: 10 * GIB,
        ..host(16)
    };
    let unreadable = Snapshot {
        host: host(16),
        device: DeviceState::Gpu(None),
    };
    let cases: [(&str, Snapshot, &str); 18] = [
        ("GPU, 0 GiB free", on_gpu(gpu(0, 24)), "analyze"),
        ("4 GiB card", on_gpu(gpu(4 * GIB, 4)), "g03 analyze"),
        ("8 GiB card", on_gpu(gpu(8 * GIB, 8)), "g06 analyze"),
        ("12 GiB card", on_gpu(gpu(12 * GIB, 12)), "g10 analyze"),
        ("24 GiB card", on_gpu(gpu(24 * GIB, 24)), "g20 analyze"),
        ("80 GiB card", on_gpu(gpu(80 * GIB, 80)), "g48 analyze"),
        (
            "24 GiB card with other tenants in 15 of it",
            on_gpu(gpu(9 * GIB, 24)),
            "g08 analyze",
        ),
        (
            "24 GiB card of which another worker is about to take 6",
            on_gpu(tenant),
            "g06 analyze",
        ),
        ("8 GiB card with a warm engine", on_gpu(warm), "g06 analyze"),
        ("MIG partition of 10 GiB", on_gpu(gpu(9900, 10)), "g08 analyze"),
        ("GPU that the driver cannot read", unreadable, "analyze"),
        ("GPU on a host without memory", nothing_on_host, ""),
        ("CPU, 0 GiB free", on_cpu(host(0)), ""),
        ("CPU, 4 GiB free", on_cpu(host(4)), "cpu03 analyze"),
        ("CPU, 24 GiB free", on_cpu(host(24)), "cpu16 analyze"),
        ("CPU in a container of 6 GiB", on_cpu(container), "cpu04 analyze"),
        ("CPU with warm children", on_cpu(warm_cpu), "cpu04 analyze"),
        (
            "CPU beside a worker that is about to take 10",
            on_cpu(reserved),
            "cpu04 analyze",
        ),
    ];
    for (machine, snapshot, expected) in cases {
        assert_eq!(classes(&available(&snapshot, &LIMITS)), expected, "{machine}");
    }
}

#[test]
fn two_gpus_are_two_workers_that_each_pull_what_fits_their_own() {
    let available = [gpu(24 * GIB, 24), gpu(5 * GIB, 24)].map(|state| available(&on_gpu(state), &LIMITS));
    assert_eq!(available[0].memory.device_mib, Some(24 * GIB - 256));
    assert_eq!(classes(&available[1]), "g04 analyze");
}

#[test]
fn small_machines_are_not_excluded_by_the_reserve() {
    let small = |free_mib, total_mib| HostState {
        free_mib,
        total_mib,
        ..HostState::default()
    };
    // A control group of 3 GiB in which another program holds 1.6 GiB.
    let group = on_cpu(small(3 * GIB - 1638, 3 * GIB));
    assert_eq!(classes(&available(&group, &LIMITS)), "cpu512m analyze");
    assert_eq!(LIMITS.reserve(3 * GIB), 384);
    // A board of 1 GiB, and a card of 2 GiB.
    let board = on_cpu(small(700, GIB));
    assert_eq!(classes(&available(&board, &LIMITS)), "cpu256m analyze");
    assert_eq!(
        classes(&available(&on_gpu(gpu(1900, 2)), &LIMITS)),
        "g1536m analyze"
    );
    assert_eq!(
        (LIMITS.reserve(64 * GIB), LIMITS.reserve_device(24 * GIB)),
        (512, 256)
    );
}

#[test]
fn a_worker_without_room_says_what_there_is_and_what_stays_free() {
    let full = HostState {
        free_mib: 600,
        total_mib: 3 * GIB,
        ..HostState::default()
    };
    let text = describe_shortage(&on_cpu(full), &LIMITS);
    assert!(text.starts_with("600 of the host's 3072 MiB are free"), "{text}");
    assert!(
        text.contains("384 MiB stay free (--reserve)") && text.contains("need 256 MiB"),
        "{text}"
    );
    let text = describe_shortage(&on_gpu(gpu(700, 8)), &LIMITS);
    assert!(text.starts_with("700 of the GPU's 8192 MiB are free"), "{text}");
    let text = describe_shortage(
        &Snapshot {
            host: full,
            ..on_gpu(gpu(8000, 8))
        },
        &LIMITS,
    );
    assert!(
        text.starts_with("600 of the host's"),
        "the GPU is free, the host is not: {text}"
    );
}

#[test]
fn an_engine_on_a_gpu_needs_memory_of_the_host_that_no_other_worker_is_about_to_take() {
    let offers = |reserved_by_others_mib, engine_growth_mib| {
        let host = HostState {
            free_mib: 512 + 256 + 850,
            total_mib: 64 * GIB,
            reserved_by_others_mib,
            engine_growth_mib,
            ..HostState::default()
        };
        let snapshot = Snapshot {
            host,
            ..on_gpu(gpu(8000, 8))
        };
        let available = available(&snapshot, &LIMITS);
        assert!(available.analyze);
        let text = describe_shortage(&snapshot, &LIMITS);
        (available.memory.device_mib.is_some(), text)
    };
    assert!(offers(0, 850).0);
    assert!(offers(850, 0).0, "its engine runs");
    let (fits, text) = offers(1, 850);
    assert!(!fits);
    assert!(
        text.contains("850 MiB for the engine's own part and 1 MiB for other workers"),
        "{text}"
    );
}

#[test]
fn a_reserve_is_never_used() {
    let limits = MemoryLimits {
        reserve_mib: Some(12 * GIB),
        reserve_device_mib: Some(20 * GIB),
        ..LIMITS
    };
    assert_eq!(classes(&available(&on_cpu(host(16)), &limits)), "cpu03 analyze");
    assert_eq!(
        classes(&available(&on_gpu(gpu(24 * GIB, 24)), &limits)),
        "g04 analyze"
    );
}

#[test]
fn a_memory_limit_counts_every_process_of_the_worker() {
    let limits = MemoryLimits {
        memory_limit_mib: Some(4 * GIB),
        ..LIMITS
    };
    let alone = available(&on_cpu(host(24)), &limits);
    // 256 MiB are kept for the media child: with more, tasks that fit would be refused.
    assert_eq!(alone.memory.host_mib, Some(4 * GIB - 256));
    let busy = HostState {
        supervisor_mib: 30,
        media_mib: 900,
        engine_mib: 2 * GIB,
        ..host(24)
    };
    let busy = available(&on_cpu(busy), &limits);
    assert_eq!(
        busy.memory.host_mib,
        Some(4 * GIB - 930),
        "the memory of its engine is used again"
    );
    let poor = available(&on_cpu(host(3)), &limits);
    assert_eq!(
        poor.memory.host_mib,
        Some(3 * GIB - 512 - MEDIA_MIB),
        "free memory bounds it too"
    );
}

#[test]
fn capacity_is_what_an_empty_machine_would_give() {
    let crowded = capacity(&on_gpu(gpu(0, 24)), &LIMITS);
    assert_eq!(
        (crowded.device_mib, crowded.host_mib),
        (Some(24 * GIB - 256), None)
    );
    let cpu = capacity(&on_cpu(host(0)), &LIMITS);
    assert_eq!(cpu.host_mib, Some(64 * GIB - 512 - MEDIA_MIB));
    let limited = MemoryLimits {
        memory_limit_mib: Some(4 * GIB),
        ..LIMITS
    };
    assert_eq!(
        capacity(&on_cpu(host(0)), &limited).host_mib,
        Some(4 * GIB - MEDIA_MIB)
    );
    // Whatever fits is within capacity: otherwise a chunk would be reported to fit nowhere while a worker
    // could take it.
    for free_gib in 0..64 {
        for limits in [LIMITS, limited] {
            let snapshot = on_cpu(host(free_gib));
            assert!(available(&snapshot, &limits).memory.host_mib <= capacity(&snapshot, &limits).host_mib);
        }
    }
}

#[test]
fn the_fastest_allowed_plan_that_fits_is_taken_or_none() {
    let constraints = MemoryConstraints {
        kind: DeviceKind::Cuda,
        floor: MemoryPlan::SequentialGuidance,
        needs: MemoryRequirements {
            mib: [9000, 7000, 5000, 5000, 3500, 2000],
        },
    };
    let with = |device_mib| RenderMemory {
        device_mib,
        host_mib: Some(64 * GIB),
    };
    assert_eq!(
        choose_plan(&constraints, with(Some(80 * GIB))),
        Ok((MemoryPlan::SequentialGuidance, 7000))
    );
    assert_eq!(
        choose_plan(&constraints, with(Some(5000))),
        Ok((MemoryPlan::Sliced, 5000))
    );
    assert_eq!(
        choose_plan(&constraints, with(Some(4999))),
        Ok((MemoryPlan::Offload, 3500))
    );
    let too_small = |free_mib| InsufficientMemory {
        needed_mib: 2000,
        free_mib,
    };
    assert_eq!(choose_plan(&constraints, with(Some(1999))), Err(too_small(1999)));
    assert_eq!(
        choose_plan(&constraints, with(None)),
        Err(too_small(0)),
        "a GPU task cannot use host memory"
    );
}
