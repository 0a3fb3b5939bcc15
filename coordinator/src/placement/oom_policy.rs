//! The out-of-memory policy decides what follows for one chunk when an attempt at it runs out of device or
//! host memory. The dispatcher calls it for each such report, and for chunks over which several workers were
//! lost.

use latentfarm_common::memory_estimate::same_need;
use latentfarm_common::queues::ResourceClass;
use latentfarm_common::wire::memory::{
    DeviceKind, MemoryConstraints, MemoryPlan, MemoryRequirements, OutOfMemory,
};

use super::needs::gib;

/// A chunk that ran out of memory this often under its leanest plan, each time although its queue offers what
/// it is known to need, requires more memory. Once may be another process on the same device.
const UNEXPLAINED_OOM_LIMIT: u32 = 2;

/// What the out-of-memory policy decided about a chunk's next attempt on the same kind of device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OomDecision {
    /// The memory plans before this one are no longer used.
    RaiseFloor(MemoryPlan),
    /// Even the leanest plan was not enough: the chunk requires this much free memory from now on, in MiB.
    RequireMemory(u64),
    /// The device had less free memory than its worker offered, so the same queue is tried once more.
    RetryUnchanged,
}

impl OomDecision {
    /// The decision in one clause, for the journal and the report.
    pub fn describe(self, kind: DeviceKind) -> String {
        match self {
            Self::RaiseFloor(plan) => format!("its plan floor on {kind} rises to {plan}"),
            Self::RequireMemory(mib) => format!(
                "the leanest plan is not enough: on {kind} it requires {} from now on",
                gib(mib)
            ),
            Self::RetryUnchanged => {
                "the device had less free memory than it offered: the same queue is tried once more"
                    .to_owned()
            }
        }
    }
}

/// What one chunk's attempts showed of its memory need on each kind of device. The values only ever rise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChunkMemory {
    cpu: KindMemory,
    cuda: KindMemory,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct KindMemory {
    floor: MemoryPlan,
    /// A lower bound of the need under each plan, in MiB; 0 if none is known.
    bounds: [u64; MemoryPlan::COUNT],
    /// What a queue has to offer at least, whatever the needs are.
    min_queue_mib: u64,
    /// How often the chunk ran out although its queue offered enough; see [`UNEXPLAINED_OOM_LIMIT`].
    unexplained_ooms: u32,
}

impl ChunkMemory {
    fn of(&self, kind: DeviceKind) -> &KindMemory {
        match kind {
            DeviceKind::Cpu => &self.cpu,
            DeviceKind::Cuda => &self.cuda,
        }
    }

    fn of_mut(&mut self, kind: DeviceKind) -> &mut KindMemory {
        match kind {
            DeviceKind::Cpu => &mut self.cpu,
            DeviceKind::Cuda => &mut self.cuda,
        }
    }

    /// The first plan that may still be used.
    pub fn floor(&self, kind: DeviceKind) -> MemoryPlan {
        self.of(kind).floor
    }

    /// A copy that requires a larger class than this one, because workers that offer it refuse the chunk.
    #[must_use]
    pub fn above(mut self, class: ResourceClass) -> Self {
        if let Some(kind) = class.kind() {
            let memory = self.of_mut(kind);
            memory.min_queue_mib = memory.min_queue_mib.max(class.mib() + 1);
        }
        self
    }

    /// `needs`, raised where this chunk's own lower bounds are higher.
    pub fn needs(&self, kind: DeviceKind, needs: &MemoryRequirements) -> MemoryRequirements {
        let mut raised = *needs;
        let mut least = 0;
        for (mib, bound) in raised.mib.iter_mut().zip(self.of(kind).bounds).rev() {
            least = least.max(bound);
            *mib = (*mib).max(least);
        }
        raised
    }

    /// The memory constraints of a task of the chunk: the plans that its worker may use and what each of them
    /// needs.
    pub fn constraints(&self, kind: DeviceKind, needs: &MemoryRequirements) -> MemoryConstraints {
        MemoryConstraints {
            kind,
            floor: self.floor(kind),
            needs: self.needs(kind, needs),
        }
    }

    /// What a queue has to offer for the leanest plan, in MiB. `overhead_mib` is needed in the same memory
    /// besides.
    pub fn queue_need_mib(&self, kind: DeviceKind, needs: &MemoryRequirements, overhead_mib: u64) -> u64 {
        let leanest = self.needs(kind, needs).leanest();
        leanest
            .saturating_add(overhead_mib)
            .max(self.of(kind).min_queue_mib)
    }

    /// Records an attempt that ran out of memory, and decides what follows. `class` is that of the queue from
    /// which the task was pulled, if that is known. `predicted` are the uncorrected needs on that kind of
    /// device, because they show which of the next plans need less.
    pub fn record_oom(
        &mut self,
        oom: &OutOfMemory,
        class: Option<ResourceClass>,
        predicted: &MemoryRequirements,
        overhead_mib: u64,
    ) -> OomDecision {
        let need_before = self.queue_need_mib(oom.kind, predicted, overhead_mib);
        let class_before = class.or_else(|| class_for(oom.kind, need_before));
        let memory = self.of_mut(oom.kind);
        if let Some(mib) = oom.needed_at_least_mib.filter(|_| !oom.suspected) {
            let same = same_need(predicted, oom.plan);
            memory.bounds[same.index()] = memory.bounds[same.index()].max(mib);
        }
        if let Some(next) = predicted.next_leaner(oom.plan)
            && next > memory.floor
        {
            memory.floor = next;
            return OomDecision::RaiseFloor(next);
        }
        memory.floor = memory.floor.max(oom.plan);
        // If no class holds the need, no queue offers that much or more.
        let offered_mib = class_before.map_or(need_before, ResourceClass::mib);
        let need = self.queue_need_mib(oom.kind, predicted, overhead_mib);
        let memory = self.of_mut(oom.kind);
        if need > offered_mib {
            return OomDecision::RequireMemory(need);
        }
        memory.unexplained_ooms += 1;
        if memory.unexplained_ooms < UNEXPLAINED_OOM_LIMIT {
            return OomDecision::RetryUnchanged;
        }
        memory.unexplained_ooms = 0;
        memory.min_queue_mib = offered_mib + 1;
        OomDecision::RequireMemory(memory.min_queue_mib)
    }
}

/// The smallest class that holds a need on a kind of device; `None` if it exceeds the largest class.
pub(super) fn class_for(kind: DeviceKind, need_mib: u64) -> Option<ResourceClass> {
    match kind {
        DeviceKind::Cpu => ResourceClass::cpu_for(need_mib),
        DeviceKind::Cuda => ResourceClass::gpu_for(need_mib),
    }
}
