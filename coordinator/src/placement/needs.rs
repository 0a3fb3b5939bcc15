//! What a job's windows need by kind of device.

use latentfarm_common::needs::corrected;
use latentfarm_common::wire::memory::{DeviceKind, MemoryObservation, MemoryPlan, MemoryRequirements};

/// Predicted or corrected needs of one job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JobNeeds {
    /// Of the engine on the CPU; `None`: not known to run there.
    pub cpu: Option<MemoryRequirements>,
    /// Of a GPU; `None`: not known to run there.
    pub cuda: Option<MemoryRequirements>,
    /// Host memory of the media child, which a CPU queue has to offer too.
    pub media_mib: u64,
}

impl JobNeeds {
    /// For the CPU alone, the same under every plan, the media child included.
    pub fn flat_cpu(mib: u64) -> Self {
        Self {
            cpu: Some(MemoryRequirements {
                mib: [mib; MemoryPlan::COUNT],
            }),
            cuda: None,
            media_mib: 0,
        }
    }

    pub fn of(&self, kind: DeviceKind) -> Option<&MemoryRequirements> {
        match kind {
            DeviceKind::Cpu => self.cpu.as_ref(),
            DeviceKind::Cuda => self.cuda.as_ref(),
        }
    }

    /// What has to be free in the same memory besides the engine's need.
    pub fn beside(&self, kind: DeviceKind) -> u64 {
        match kind {
            DeviceKind::Cpu => self.media_mib,
            DeviceKind::Cuda => 0,
        }
    }

    /// The same, corrected by what tasks showed on each kind of device.
    #[must_use]
    pub fn corrected<'a>(&self, learned: impl Fn(DeviceKind) -> &'a [MemoryObservation]) -> Self {
        let correct = |kind| self.of(kind).map(|needs| corrected(needs, learned(kind)));
        Self {
            cpu: correct(DeviceKind::Cpu),
            cuda: correct(DeviceKind::Cuda),
            media_mib: self.media_mib,
        }
    }
}

/// MiB as people read it: `3.9 GiB`, or `640 MiB` below one.
pub fn gib(mib: u64) -> String {
    if mib < 1024 {
        return format!("{mib} MiB");
    }
    format!("{:.1} GiB", mib as f64 / 1024.0)
}
