//! The queues that one chunk fits into, given the workers that are alive. The dispatcher's placer calls
//! [`options`] for each waiting chunk before it solves the placement.

use std::fmt;

use latentfarm_common::ids::WorkerId;
use latentfarm_common::queues::ResourceClass;
use latentfarm_common::wire::memory::{DeviceKind, MemoryConstraints, RenderMemory};

use super::needs::{JobNeeds, gib};
use super::oom_policy::{ChunkMemory, class_for, offered};

/// The memory that a live worker can offer to a task if none runs: what is free now, and what its own
/// processes hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerCapacity {
    pub worker: WorkerId,
    pub capacity: RenderMemory,
}

impl WorkerCapacity {
    /// Whether the worker pulls tasks from the queue of `class`.
    pub fn serves(&self, class: ResourceClass) -> bool {
        let capacity = match class {
            ResourceClass::Analyze => return true,
            ResourceClass::Cpu(_) => self.capacity.host_mib,
            ResourceClass::Gpu(_) => self.capacity.device_mib,
        };
        capacity.is_some_and(|mib| mib >= offered(class))
    }
}

/// A queue that is large enough for a chunk and that some live worker serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fit {
    pub class: ResourceClass,
    pub constraints: MemoryConstraints,
    /// The memory that the engine needs under the leanest memory plan, and on the CPU the media process
    /// beside it.
    pub need_mib: u64,
}

/// A kind of device of which no live worker has enough memory for a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortage {
    pub kind: DeviceKind,
    /// The memory that the engine needs under the leanest memory plan, and on the CPU the media process
    /// beside it.
    pub need_mib: u64,
    /// The memory that a worker must have free to serve the smallest queue for that need; `None` if the need
    /// exceeds the largest class.
    pub queue_mib: Option<u64>,
    /// The largest memory of this kind of device that a live worker can offer; `None` if no live worker has
    /// such a device.
    pub largest_mib: Option<u64>,
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let need = gib(self.need_mib);
        match self.kind {
            DeviceKind::Cuda => write!(f, "needs {need}")?,
            DeviceKind::Cpu => write!(f, "needs {need} on the CPU")?,
        }
        match (self.largest_mib, self.kind, self.queue_mib) {
            (None, DeviceKind::Cuda, _) => f.write_str(", there is no GPU"),
            (None, DeviceKind::Cpu, _) => f.write_str(", no worker renders on the CPU"),
            (Some(largest), _, Some(queue)) if largest >= self.need_mib => write!(
                f,
                " (a queue of {}), the largest free is {}",
                gib(queue),
                gib(largest)
            ),
            (Some(largest), _, _) => write!(f, ", the largest free is {}", gib(largest)),
        }
    }
}

/// The queues that a chunk may be published to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    pub gpu: Option<Fit>,
    pub cpu: Option<Fit>,
    /// The kinds of device on which the chunk fits no live worker, the GPU first.
    pub shortages: Vec<Shortage>,
}

/// Finds the smallest queue on each kind of device that holds the chunk's leanest plan, if a live worker
/// serves it.
pub fn options(needs: &JobNeeds, memory: &ChunkMemory, capacities: &[WorkerCapacity]) -> Options {
    let mut options = Options::default();
    for kind in [DeviceKind::Cuda, DeviceKind::Cpu] {
        let Some(predicted) = needs.of(kind) else { continue };
        let need_mib = memory.queue_need_mib(kind, predicted, needs.overhead_mib(kind));
        let class = class_for(kind, need_mib);
        let served = class.filter(|class| capacities.iter().any(|worker| worker.serves(*class)));
        let Some(class) = served else {
            options.shortages.push(Shortage {
                kind,
                need_mib,
                queue_mib: class.map(offered),
                largest_mib: capacities
                    .iter()
                    .filter_map(|worker| worker.capacity.of(kind))
                    .max(),
            });
            continue;
        };
        let fit = Some(Fit {
            class,
            constraints: memory.constraints(kind, predicted),
            need_mib,
        });
        match kind {
            DeviceKind::Cuda => options.gpu = fit,
            DeviceKind::Cpu => options.cpu = fit,
        }
    }
    options
}
