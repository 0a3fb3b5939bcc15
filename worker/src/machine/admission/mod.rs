//! Decides which tasks a worker can take now, and under which memory plan a task runs: pure functions of the
//! memory that the machine has.
//!
//! The runner calls them before each pull, and again before the engine loads a task, as memory that was free
//! may be taken meanwhile. Both use the same sums, so that a task from a queue that fitted is refused only if
//! something has changed.

use std::fmt::Write as _;

use latentfarm_common::queues::{Available, CPU_CLASSES_MIB, GPU_CLASSES_MIB};
use latentfarm_common::wire::memory::{MEDIA_MIB, MemoryConstraints, MemoryPlan, RenderMemory};

/// The host memory that is left free by default, in MiB, and the largest share of the host that it may be:
/// small machines would otherwise be excluded by the reserve alone.
const RESERVE: (u64, u64) = (512, 8);
/// The same for the memory of a GPU.
const RESERVE_DEVICE: (u64, u64) = (256, 16);

/// Bounds on the memory that a worker uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryLimits {
    /// Host memory that is left free; `None` for 512 MiB, or an eighth of the host if that is less.
    pub reserve_mib: Option<u64>,
    /// GPU memory that is left free; `None` for 256 MiB, or a sixteenth of the GPU if that is less.
    pub reserve_device_mib: Option<u64>,
    /// The most host memory that the worker's processes may hold together.
    pub memory_limit_mib: Option<u64>,
}

impl MemoryLimits {
    /// Returns the MiB that are left free on a host of this size.
    pub fn reserve(&self, total_mib: u64) -> u64 {
        self.reserve_mib.unwrap_or_else(|| reserve_of(RESERVE, total_mib))
    }

    /// Returns the MiB that are left free on a GPU of this size.
    pub fn reserve_device(&self, total_mib: u64) -> u64 {
        self.reserve_device_mib
            .unwrap_or_else(|| reserve_of(RESERVE_DEVICE, total_mib))
    }
}

fn reserve_of((most_mib, share): (u64, u64), total_mib: u64) -> u64 {
    most_mib.min(total_mib / share)
}

/// The host's memory from the view of one worker, in MiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostState {
    /// Memory that the kernel and the control groups still give.
    pub free_mib: u64,
    pub total_mib: u64,
    /// Memory that other workers have reserved for their tasks and not taken yet.
    pub reserved_by_others_mib: u64,
    /// Memory that this worker's idle engine holds. It counts as free, as the next task uses it again.
    pub engine_mib: u64,
    /// Memory that this worker's media child holds, which likewise counts as free.
    pub media_mib: u64,
    /// Memory that the supervisor holds.
    pub supervisor_mib: u64,
    /// Memory that this worker's engine on a GPU is still going to take of the host.
    pub engine_growth_mib: u64,
}

/// A GPU's memory from the view of one worker, in MiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GpuState {
    pub free_mib: u64,
    pub total_mib: u64,
    /// Memory that other workers have reserved for their tasks and not taken yet.
    pub reserved_by_others_mib: u64,
    /// Memory that this worker's idle engine holds and that is not in `free_mib`.
    pub engine_mib: u64,
}

/// The memory of the machine by which a task is admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Snapshot {
    pub host: HostState,
    pub device: DeviceState,
}

/// The device that the engine computes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceState {
    Cpu,
    /// A GPU; `None` if it cannot be read at the moment.
    Gpu(Option<GpuState>),
}

/// Returns the memory that a task could use at this moment.
pub fn available(snapshot: &Snapshot, limits: &MemoryLimits) -> Available {
    let host = &snapshot.host;
    let media_mib = MEDIA_MIB.saturating_sub(host.media_mib);
    let media_fits = media_fits(snapshot, limits);
    let engine_fits = gpu_engine_fits(snapshot, limits);
    let (host_mib, device_mib) = match snapshot.device {
        DeviceState::Cpu => {
            // All that the media child holds counts as free: what exceeds its usual part is in a task's need.
            let free = (host.free_mib + host.engine_mib + host.media_mib)
                .saturating_sub(host.reserved_by_others_mib)
                .saturating_sub(limits.reserve(host.total_mib))
                .saturating_sub(MEDIA_MIB);
            let others = host.supervisor_mib + host.media_mib.max(MEDIA_MIB);
            let allowed = limits
                .memory_limit_mib
                .map_or(u64::MAX, |limit| limit.saturating_sub(others));
            (Some(free.min(allowed)), None)
        }
        DeviceState::Gpu(state) => {
            let free = |gpu: GpuState| {
                (gpu.free_mib + gpu.engine_mib)
                    .saturating_sub(gpu.reserved_by_others_mib)
                    .saturating_sub(limits.reserve_device(gpu.total_mib))
            };
            (None, state.filter(|_| engine_fits).map(free))
        }
    };
    Available {
        // An idle engine can be ended for face analysis.
        analyze: media_fits || host.engine_mib >= media_mib,
        memory: RenderMemory { host_mib, device_mib },
    }
}

/// Returns true if the host has the memory for the media child beside the engine. Memory that the child holds
/// counts.
pub fn media_fits(snapshot: &Snapshot, limits: &MemoryLimits) -> bool {
    let host = &snapshot.host;
    host.free_mib + host.media_mib >= limits.reserve(host.total_mib) + MEDIA_MIB
}

/// Returns true if the host has the memory for an engine on a GPU and the media child beside it, which makes its crops,
/// besides what other workers of the host have reserved.
fn gpu_engine_fits(snapshot: &Snapshot, limits: &MemoryLimits) -> bool {
    let host = &snapshot.host;
    let taken_mib = limits.reserve(host.total_mib) + host.reserved_by_others_mib;
    host.free_mib + host.media_mib >= taken_mib + host.engine_growth_mib + MEDIA_MIB
}

/// Returns true if the host has the memory for a second media child, beside one that is at work and an engine that is
/// still going to take `outstanding_mib` of the host.
pub fn second_media_fits(snapshot: &Snapshot, limits: &MemoryLimits, outstanding_mib: u64) -> bool {
    let host = &snapshot.host;
    let growth_mib = outstanding_mib + MEDIA_MIB.saturating_sub(host.media_mib);
    let own_mib = host.supervisor_mib + host.engine_mib + host.media_mib + growth_mib + MEDIA_MIB;
    host.free_mib >= limits.reserve(host.total_mib) + growth_mib + MEDIA_MIB
        && limits.memory_limit_mib.is_none_or(|limit| own_mib <= limit)
}

/// Returns the memory that a task could use if nothing else ran on the machine.
pub fn capacity(snapshot: &Snapshot, limits: &MemoryLimits) -> RenderMemory {
    let host = &snapshot.host;
    match snapshot.device {
        DeviceState::Cpu => {
            let alone = host.total_mib.saturating_sub(limits.reserve(host.total_mib));
            let allowed = limits.memory_limit_mib.unwrap_or(u64::MAX).min(alone);
            RenderMemory {
                host_mib: Some(allowed.saturating_sub(MEDIA_MIB)),
                device_mib: None,
            }
        }
        DeviceState::Gpu(state) => RenderMemory {
            host_mib: None,
            device_mib: state.map(|gpu| gpu.total_mib.saturating_sub(limits.reserve_device(gpu.total_mib))),
        },
    }
}

/// Describes the machine's memory to an operator whose worker finds no room for any render task.
pub fn describe_shortage(snapshot: &Snapshot, limits: &MemoryLimits) -> String {
    let host = &snapshot.host;
    let (free, total, reserve) = (host.free_mib, host.total_mib, limits.reserve(host.total_mib));
    let mut host_text = format!(
        "{free} of the host's {total} MiB are free, of which {reserve} MiB stay free (--reserve) and {MEDIA_MIB} MiB \
         are for the media process"
    );
    match snapshot.device {
        DeviceState::Gpu(None) => "the GPU cannot be read".to_owned(),
        DeviceState::Gpu(Some(gpu)) if gpu_engine_fits(snapshot, limits) => {
            let (free, total) = (gpu.free_mib + gpu.engine_mib, gpu.total_mib);
            let (reserve, least) = (limits.reserve_device(total), GPU_CLASSES_MIB[0]);
            format!(
                "{free} of the GPU's {total} MiB are free, of which {reserve} MiB stay free (--reserve-device); the \
                 smallest tasks need {least} MiB: end other programs on it"
            )
        }
        DeviceState::Gpu(Some(_)) => {
            let HostState {
                engine_growth_mib,
                reserved_by_others_mib,
                ..
            } = host;
            let _infallible = write!(
                host_text,
                ", {engine_growth_mib} MiB for the engine's own part and {reserved_by_others_mib} MiB for other workers: \
                 end other programs on the host"
            );
            host_text
        }
        DeviceState::Cpu => {
            let least = CPU_CLASSES_MIB[0];
            format!("{host_text}; the smallest tasks need {least} MiB: end other programs on the host")
        }
    }
}

/// The error if no allowed plan of a task fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InsufficientMemory {
    /// The need of the leanest allowed plan.
    pub needed_mib: u64,
    pub free_mib: u64,
}

/// Returns the fastest allowed plan that fits, and its need in MiB.
pub fn choose_plan(
    constraints: &MemoryConstraints,
    available: RenderMemory,
) -> Result<(MemoryPlan, u64), InsufficientMemory> {
    let free_mib = available.of(constraints.kind);
    let fits = free_mib.and_then(|free_mib| constraints.needs.fastest_within(constraints.floor, free_mib));
    let plan = fits.ok_or(InsufficientMemory {
        needed_mib: constraints.needs.leanest(),
        free_mib: free_mib.unwrap_or(0),
    })?;
    Ok((plan, constraints.needs.of(plan)))
}

#[cfg(test)]
mod tests;
