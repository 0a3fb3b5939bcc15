//! The queues that one chunk fits into, given the workers that are alive. The dispatcher's placer calls
//! [`options`] for each waiting chunk before it solves the placement.

use std::fmt;

use latentfarm_common::ids::WorkerId;
use latentfarm_common::numeric_kind::NumericKind;
use latentfarm_common::queues::{Lane, ResourceClass};
use latentfarm_common::tags::Tags;
use latentfarm_common::wire::memory::{DeviceKind, MemoryConstraints, MemoryPlan, RenderMemory};

use super::needs::{JobNeeds, gib};
use super::oom_policy::{ChunkMemory, class_for};
use super::policy::CpuFallback;

/// The memory that a live worker can offer to a task if it runs none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerCapacity {
    pub worker: WorkerId,
    /// The numeric kind of its machine, if it takes tasks that are for one.
    pub kind: Option<NumericKind>,
    pub tags: Tags,
    /// What is free, and what the worker's own processes hold. What other programs hold for long is not in
    /// it.
    pub capacity: RenderMemory,
    /// What it could be if no other program ran on the machine.
    pub alone: RenderMemory,
}

impl WorkerCapacity {
    /// Whether the worker pulls tasks from the queues of `lane`.
    pub fn takes(&self, lane: Lane) -> bool {
        let has_kind = lane.kind.is_none() || lane.kind == self.kind;
        self.serves(lane.class) && has_kind && lane.tag.is_none_or(|tag| self.tags.contains(tag))
    }

    /// Whether the worker has the memory for tasks of `class`.
    pub fn serves(&self, class: ResourceClass) -> bool {
        match class {
            ResourceClass::Analyze => true,
            ResourceClass::Cpu(_) => self.capacity.host_mib >= Some(class.mib()),
            ResourceClass::Gpu(_) => self.capacity.device_mib >= Some(class.mib()),
        }
    }
}

/// A queue that is large enough for a chunk and that some live worker serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fit {
    pub class: ResourceClass,
    /// The numeric kind of the machines that may take the chunk; `None` if all may.
    pub kind: Option<NumericKind>,
    pub constraints: MemoryConstraints,
    /// The memory that the engine needs under the leanest memory plan, and on the CPU the media process
    /// beside it.
    pub need_mib: u64,
}

impl Fit {
    /// What a machine must be to take the chunk, besides what its job needs of all workers.
    pub fn lane(&self) -> Lane {
        let Self { class, kind, .. } = *self;
        let tag = None;
        Lane { class, kind, tag }
    }
}

/// A kind of device of which no live worker has enough memory for a chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shortage {
    pub kind: DeviceKind,
    /// The memory that the engine needs under the leanest memory plan, and on the CPU the media process
    /// beside it.
    pub need_mib: u64,
    /// The memory that a worker must have free to serve the smallest queue for that need; `None` if the need
    /// exceeds the largest class.
    pub queue_mib: Option<u64>,
    /// The live worker that can offer most of this kind of memory; `None` if no live worker has such a
    /// device.
    pub largest: Option<Largest>,
    /// A worker that could take the chunk if no other program held its memory; `None` if there is none.
    pub crowded: Option<Largest>,
}

/// The memory of one kind of device that a worker can offer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Largest {
    pub worker: WorkerId,
    pub free_mib: u64,
    /// What it would be if no other program ran on the machine.
    pub alone_mib: u64,
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let need = gib(self.need_mib);
        match self.kind {
            DeviceKind::Cuda => write!(f, "needs {need}")?,
            DeviceKind::Cpu => write!(f, "needs {need} on the CPU")?,
        }
        let Some(largest) = &self.largest else {
            return f.write_str(match self.kind {
                DeviceKind::Cuda => ", there is no GPU",
                DeviceKind::Cpu => ", no worker renders on the CPU",
            });
        };
        if let Some(queue) = self.queue_mib.filter(|_| largest.free_mib >= self.need_mib) {
            write!(f, " (a queue of {})", gib(queue))?;
        }
        write!(f, ", the largest free is {}", gib(largest.free_mib))?;
        let Some(crowded) = &self.crowded else {
            return Ok(());
        };
        let (worker, alone) = (&crowded.worker, gib(crowded.alone_mib));
        let held = gib(crowded.alone_mib.saturating_sub(crowded.free_mib));
        write!(
            f,
            "; other processes hold {held} of the {alone} that {worker} could offer"
        )
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

impl Options {
    /// The same, but only for machines of one numeric kind.
    #[must_use]
    pub fn of_kind(self, kind: NumericKind) -> Self {
        let of_kind = |fit: Option<Fit>| {
            fit.map(|fit| Fit {
                kind: Some(kind),
                ..fit
            })
        };
        Self {
            gpu: of_kind(self.gpu),
            cpu: of_kind(self.cpu),
            ..self
        }
    }

    /// The same, but with no memory plan before `first` on a GPU.
    #[must_use]
    pub fn from_plan(mut self, first: MemoryPlan) -> Self {
        if let Some(fit) = &mut self.gpu {
            fit.constraints.floor = fit.constraints.floor.max(first);
        }
        self
    }

    /// The same, but without a GPU if the CPU can and may take the chunk.
    #[must_use]
    pub fn off_gpu(mut self, fallback: CpuFallback) -> Self {
        if self.cpu.is_some() && fallback != CpuFallback::Never {
            self.gpu = None;
        }
        self
    }

    /// Whether the chunk fits a live worker that may take it.
    pub fn any(&self, fallback: CpuFallback) -> bool {
        self.gpu.is_some() || self.cpu.is_some() && fallback != CpuFallback::Never
    }
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
            options.shortages.push(shortage(
                kind,
                need_mib,
                class.map(ResourceClass::mib),
                capacities,
            ));
            continue;
        };
        let fit = Some(Fit {
            class,
            kind: None,
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

/// Describes that no live worker offers `queue_mib`.
fn shortage(
    kind: DeviceKind,
    need_mib: u64,
    queue_mib: Option<u64>,
    capacities: &[WorkerCapacity],
) -> Shortage {
    let offers = || {
        capacities.iter().filter_map(|worker| {
            let free_mib = worker.capacity.of(kind)?;
            Some(Largest {
                worker: worker.worker.clone(),
                free_mib,
                alone_mib: worker.alone.of(kind).unwrap_or(free_mib),
            })
        })
    };
    let would_do = |offer: &Largest| queue_mib.is_some_and(|queue| offer.alone_mib >= queue);
    Shortage {
        kind,
        need_mib,
        queue_mib,
        largest: offers().max_by_key(|offer| offer.free_mib),
        crowded: offers().filter(would_do).max_by_key(|offer| offer.free_mib),
    }
}
