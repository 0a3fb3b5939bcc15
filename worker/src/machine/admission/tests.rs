use latentfarm_common::queues::fitting;
use latentfarm_common::wire::memory::{DeviceKind, MemoryRequirements};

use super::*;

const GIB: u64 = 1024;
const LIMITS: MemoryLimits = MemoryLimits {
    reserve_mib: 512,
    reserve_device_mib: 256,
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

/// Returns the resource classes of the queues that fit at one priority, in order.
fn classes(available: &Available) -> String {
    let queues = fitting(available).into_iter().filter(|queue| queue.priority == 0);
    let classes: Vec<String> = queues.map(|queue| queue.class.to_string()).collect();
    classes.join(" ")
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
        ("4 GiB card", on_gpu(gpu(4 * GIB, 4)), "g03 g02 analyze"),
        ("8 GiB card", on_gpu(gpu(8 * GIB, 8)), "g06 g04 g03 g02 analyze"),
        (
            "12 GiB card",
            on_gpu(gpu(12 * GIB, 12)),
            "g10 g08 g06 g04 g03 g02 analyze",
        ),
        (
            "24 GiB card",
            on_gpu(gpu(24 * GIB, 24)),
            "g20 g16 g12 g10 g08 g06 g04 g03 g02 analyze",
        ),
        (
            "80 GiB card",
            on_gpu(gpu(80 * GIB, 80)),
            "g48 g32 g24 g20 g16 g12 g10 g08 g06 g04 g03 g02 analyze",
        ),
        (
            "24 GiB card with other tenants in 15 of it",
            on_gpu(gpu(9 * GIB, 24)),
            "g08 g06 g04 g03 g02 analyze",
        ),
        (
            "24 GiB card of which another worker is about to take 6",
            on_gpu(tenant),
            "g06 g04 g03 g02 analyze",
        ),
        (
            "8 GiB card with a warm engine",
            on_gpu(warm),
            "g06 g04 g03 g02 analyze",
        ),
        (
            "MIG partition of 10 GiB",
            on_gpu(gpu(9900, 10)),
            "g08 g06 g04 g03 g02 analyze",
        ),
        ("GPU that the driver cannot read", unreadable, "analyze"),
        ("GPU on a host without memory", nothing_on_host, ""),
        ("CPU, 0 GiB free", on_cpu(host(0)), ""),
        ("CPU, 4 GiB free", on_cpu(host(4)), "cpu02 analyze"),
        (
            "CPU, 24 GiB free",
            on_cpu(host(24)),
            "cpu16 cpu08 cpu04 cpu02 analyze",
        ),
        (
            "CPU in a container of 6 GiB",
            on_cpu(container),
            "cpu04 cpu02 analyze",
        ),
        ("CPU with warm children", on_cpu(warm_cpu), "cpu04 cpu02 analyze"),
        (
            "CPU beside a worker that is about to take 10",
            on_cpu(reserved),
            "cpu04 cpu02 analyze",
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
    assert_eq!(classes(&available[1]), "g04 g03 g02 analyze");
}

#[test]
fn a_reserve_is_never_used() {
    let limits = MemoryLimits {
        reserve_mib: 12 * GIB,
        reserve_device_mib: 20 * GIB,
        ..LIMITS
    };
    assert_eq!(classes(&available(&on_cpu(host(16)), &limits)), "cpu02 analyze");
    assert_eq!(
        classes(&available(&on_gpu(gpu(24 * GIB, 24)), &limits)),
        "g04 g03 g02 analyze"
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
