//! What one chunk ran out of, and where that leaves it.

use latentfarm_common::needs::same_need;
use latentfarm_common::queues::ResourceClass;
use latentfarm_common::wire::memory::{
    DeviceKind, MemoryConstraints, MemoryPlan, MemoryRequirements, OutOfMemory,
};

use super::needs::gib;

/// Times that a chunk runs out under its leanest plan, without its need being disproved, before it asks for
/// more room all the same: once may be another tenant's doing.
const SQUEEZES: u32 = 2;

/// What followed from an attempt that ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Raised {
    /// Plans before this one are not tried again on such a device.
    Floor(MemoryPlan),
    /// The leanest plan is not enough there: so much has to be free from now on, in MiB.
    ResourceClass(u64),
    /// The device had less than was promised: the same place may be tried once more.
    Nothing,
}

impl Raised {
    /// What followed, in words.
    pub fn text(self, kind: DeviceKind) -> String {
        match self {
            Self::Floor(plan) => format!("its plan floor on {kind} rises to {plan}"),
            Self::ResourceClass(mib) => format!(
                "the leanest plan is not enough: on {kind} it asks for {} from now on",
                gib(mib)
            ),
            Self::Nothing => "the device had less than it offered: the same place once more".to_owned(),
        }
    }
}

/// The memory history of one chunk on each kind of device. It only ever rises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChunkMemory {
    cpu: KindMemory,
    cuda: KindMemory,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct KindMemory {
    floor: MemoryPlan,
    /// Lower bounds of the need by plan, in MiB; 0: none.
    bounds: [u64; MemoryPlan::COUNT],
    /// What a queue has to offer at least.
    least_mib: u64,
    squeezes: u32,
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

    /// The highest lower bound that is known for the leanest plan, in MiB; 0: none.
    pub fn bound(&self, kind: DeviceKind) -> u64 {
        self.of(kind).bounds[MemoryPlan::LEANEST.index()]
    }

    /// `needs` with this chunk's own lower bounds in them.
    pub fn needs(&self, kind: DeviceKind, needs: &MemoryRequirements) -> MemoryRequirements {
        let mut raised = *needs;
        let mut least = 0;
        for (mib, bound) in raised.mib.iter_mut().zip(self.of(kind).bounds).rev() {
            least = least.max(bound);
            *mib = (*mib).max(least);
        }
        raised
    }

    pub fn constraints(&self, kind: DeviceKind, needs: &MemoryRequirements) -> MemoryConstraints {
        MemoryConstraints {
            kind,
            floor: self.floor(kind),
            needs: self.needs(kind, needs),
        }
    }

    /// What a queue has to offer for the leanest plan; `beside_mib` is needed in the same memory besides.
    pub fn lane_need(&self, kind: DeviceKind, needs: &MemoryRequirements, beside_mib: u64) -> u64 {
        let leanest = self.needs(kind, needs).leanest();
        leanest.saturating_add(beside_mib).max(self.of(kind).least_mib)
    }

    /// Notes an attempt that ran out. `class` is that of the queue from which it was pulled, if that is known.
    /// `predicted` are the uncorrected needs on that kind of device: they say
    /// which plans really need less.
    pub fn note(
        &mut self,
        oom: &OutOfMemory,
        class: Option<ResourceClass>,
        predicted: &MemoryRequirements,
        beside_mib: u64,
    ) -> Raised {
        let need_before = self.lane_need(oom.kind, predicted, beside_mib);
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
            return Raised::Floor(next);
        }
        memory.floor = memory.floor.max(oom.plan);
        // Without any class nothing offers it, nor more.
        let offered_mib = class_before.map_or(need_before, offered);
        let need = self.lane_need(oom.kind, predicted, beside_mib);
        let memory = self.of_mut(oom.kind);
        if need > offered_mib {
            return Raised::ResourceClass(need);
        }
        memory.squeezes += 1;
        if memory.squeezes < SQUEEZES {
            return Raised::Nothing;
        }
        memory.squeezes = 0;
        memory.least_mib = offered_mib + 1;
        Raised::ResourceClass(memory.least_mib)
    }
}

/// The smallest class that holds a need on a kind of device.
pub(super) fn class_for(kind: DeviceKind, need_mib: u64) -> Option<ResourceClass> {
    match kind {
        DeviceKind::Cpu => ResourceClass::cpu_for(need_mib),
        DeviceKind::Cuda => ResourceClass::gpu_for(need_mib),
    }
}

/// What a worker that pulls from the class has free at least, in MiB.
pub(super) fn offered(class: ResourceClass) -> u64 {
    match class {
        ResourceClass::Analyze => 0,
        ResourceClass::Cpu(gib) | ResourceClass::Gpu(gib) => u64::from(gib) * 1024,
    }
}
