//! The queues that one chunk fits into, given the machines that are there.

use std::fmt;

use latentfarm_common::ids::WorkerId;
use latentfarm_common::queues::ResourceClass;
use latentfarm_common::wire::memory::{DeviceKind, MemoryConstraints, RenderMemory};

use super::needs::{JobNeeds, gib};
use super::oom_policy::{ChunkMemory, class_for, offered};

/// A live worker, as far as memory is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    pub worker: WorkerId,
    /// What it can offer to a task.
    pub capacity: RenderMemory,
}

impl Machine {
    pub fn serves(&self, class: ResourceClass) -> bool {
        let capacity = match class {
            ResourceClass::Analyze => return true,
            ResourceClass::Cpu(_) => self.capacity.host_mib,
            ResourceClass::Gpu(_) => self.capacity.device_mib,
        };
        capacity.is_some_and(|mib| mib >= offered(class))
    }
}

/// A queue that some live worker serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fit {
    pub class: ResourceClass,
    pub constraints: MemoryConstraints,
    /// What the leanest plan needs, all in all.
    pub need_mib: u64,
}

/// A kind of device on which nobody has enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortage {
    pub kind: DeviceKind,
    /// What the leanest plan needs.
    pub need_mib: u64,
    /// What has to be free for its queue; `None`: past the largest class.
    pub lane_mib: Option<u64>,
    /// What the largest live worker can offer; `None`: there is no such device.
    pub largest_mib: Option<u64>,
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let need = gib(self.need_mib);
        match self.kind {
            DeviceKind::Cuda => write!(f, "needs {need}")?,
            DeviceKind::Cpu => write!(f, "needs {need} on the CPU")?,
        }
        match (self.largest_mib, self.kind, self.lane_mib) {
            (None, DeviceKind::Cuda, _) => f.write_str(", there is no GPU"),
            (None, DeviceKind::Cpu, _) => f.write_str(", nobody renders on the CPU"),
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

/// Where a chunk may go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    pub gpu: Option<Fit>,
    pub cpu: Option<Fit>,
    /// Of the kinds on which it fits nowhere: the GPU first.
    pub shortages: Vec<Shortage>,
}

/// The smallest queue on each kind of device that holds the chunk's leanest plan and that a live worker serves.
pub fn options(needs: &JobNeeds, memory: &ChunkMemory, machines: &[Machine]) -> Options {
    let mut options = Options::default();
    for kind in [DeviceKind::Cuda, DeviceKind::Cpu] {
        let Some(predicted) = needs.of(kind) else { continue };
        let need_mib = memory.lane_need(kind, predicted, needs.beside(kind));
        let class = class_for(kind, need_mib);
        let served = class.filter(|class| machines.iter().any(|machine| machine.serves(*class)));
        let Some(class) = served else {
            options.shortages.push(Shortage {
                kind,
                need_mib,
                lane_mib: class.map(offered),
                largest_mib: machines
                    .iter()
                    .filter_map(|machine| machine.capacity.of(kind))
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
