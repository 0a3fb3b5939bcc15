//! What a worker can take right now, and the plan that a task runs under: pure functions of what the machine has.
//!
//! Asked before each pull and again before a task is loaded, as memory that was free may be taken meanwhile. Both
//! use the same sums, so that a task whose queue fitted is refused only where something changed.

use latentfarm_common::queues::Available;
use latentfarm_common::wire::memory::{MEDIA_MIB, MemoryConstraints, MemoryPlan, RenderMemory};

/// What is never used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Host memory left alone.
    pub reserve_mib: u64,
    /// Memory of a GPU left alone.
    pub reserve_device_mib: u64,
    /// The most host memory that the worker's processes may hold together.
    pub memory_limit_mib: Option<u64>,
}

/// The host as one worker sees it, in MiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostState {
    /// What the kernel and the control groups still give.
    pub free_mib: u64,
    pub total_mib: u64,
    /// Promised to tasks of other workers and not taken by them yet.
    pub claimed_mib: u64,
    /// Held by this worker's warm engine, which the next task uses again.
    pub engine_mib: u64,
    /// Held by its media process, likewise.
    pub media_mib: u64,
    /// Held by the supervisor.
    pub supervisor_mib: u64,
}

/// A GPU as one worker sees it, in MiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GpuState {
    pub free_mib: u64,
    pub total_mib: u64,
    pub claimed_mib: u64,
    /// Held by this worker's warm engine, and not in `free_mib`.
    pub engine_mib: u64,
}

/// What a worker has for its engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Snapshot {
    pub host: HostState,
    pub device: Target,
}

/// The device that the engine computes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    Cpu,
    /// `None`: the driver says nothing of it at the moment.
    Gpu(Option<GpuState>),
}

/// What fits at this moment.
pub fn available(snapshot: &Snapshot, limits: &Limits) -> Available {
    let host = &snapshot.host;
    let media_mib = MEDIA_MIB.saturating_sub(host.media_mib);
    let media_fits = media_fits(snapshot, limits);
    let (host_mib, device_mib) = match snapshot.device {
        Target::Cpu => {
            let free = (host.free_mib + host.engine_mib)
                .saturating_sub(host.claimed_mib)
                .saturating_sub(limits.reserve_mib)
                .saturating_sub(media_mib);
            let others = host.supervisor_mib + host.media_mib.max(MEDIA_MIB);
            let allowed = limits
                .memory_limit_mib
                .map_or(u64::MAX, |limit| limit.saturating_sub(others));
            (Some(free.min(allowed)), None)
        }
        Target::Gpu(state) => {
            let free = |gpu: GpuState| {
                (gpu.free_mib + gpu.engine_mib)
                    .saturating_sub(gpu.claimed_mib)
                    .saturating_sub(limits.reserve_device_mib)
            };
            // An engine on a GPU has its crops from the host.
            (None, state.filter(|_| media_fits).map(free))
        }
    };
    Available {
        // An idle engine can be ended for it.
        analyze: media_fits || host.engine_mib >= media_mib,
        memory: RenderMemory { host_mib, device_mib },
    }
}

/// Whether the media process finds its memory beside the engine. What it holds already is part of that.
pub fn media_fits(snapshot: &Snapshot, limits: &Limits) -> bool {
    let host = &snapshot.host;
    host.free_mib + host.media_mib >= limits.reserve_mib + MEDIA_MIB
}

/// What would fit were nothing else at work on the machine.
pub fn capacity(snapshot: &Snapshot, limits: &Limits) -> RenderMemory {
    let host = &snapshot.host;
    match snapshot.device {
        Target::Cpu => {
            let alone = host.total_mib.saturating_sub(limits.reserve_mib);
            let allowed = limits.memory_limit_mib.unwrap_or(u64::MAX).min(alone);
            RenderMemory {
                host_mib: Some(allowed.saturating_sub(MEDIA_MIB)),
                device_mib: None,
            }
        }
        Target::Gpu(state) => RenderMemory {
            host_mib: None,
            device_mib: state.map(|gpu| gpu.total_mib.saturating_sub(limits.reserve_device_mib)),
        },
    }
}

/// No allowed plan of a task fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooSmall {
    /// Need of the leanest allowed plan.
    pub needed_mib: u64,
    pub free_mib: u64,
}

/// The fastest plan that fits, and its need in MiB.
pub fn choose(
    constraints: &MemoryConstraints,
    available: RenderMemory,
) -> Result<(MemoryPlan, u64), TooSmall> {
    let free_mib = available.of(constraints.kind);
    let fits = free_mib.and_then(|free_mib| constraints.needs.fastest_within(constraints.floor, free_mib));
    let plan = fits.ok_or(TooSmall {
        needed_mib: constraints.needs.leanest(),
        free_mib: free_mib.unwrap_or(0),
    })?;
    Ok((plan, constraints.needs.of(plan)))
}

#[cfg(test)]
mod tests;
