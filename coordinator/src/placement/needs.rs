//! The memory that a job's windows need on each kind of device. The preflight predicts it before a job
//! begins, and the placer corrects it by what finished tasks used.

use latentfarm_common::memory_estimate::corrected;
use latentfarm_common::wire::memory::{DeviceKind, MemoryObservation, MemoryPlan, MemoryRequirements};
use serde::{Deserialize, Serialize};

/// The predicted or corrected memory needs of one job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobNeeds {
    /// What the engine needs on the CPU; `None` if the job is not known to run there.
    pub cpu: Option<MemoryRequirements>,
    /// What the engine needs on a GPU; `None` if the job is not known to run there.
    pub cuda: Option<MemoryRequirements>,
    /// The host memory of the media child, which a CPU queue has to offer besides the engine's need.
    pub media_mib: u64,
}

impl JobNeeds {
    /// Needs on the CPU alone, equal under every plan and with the media child included.
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

    /// What has to be free in the same memory besides the engine's need, in MiB.
    pub fn overhead_mib(&self, kind: DeviceKind) -> u64 {
        match kind {
            DeviceKind::Cpu => self.media_mib,
            DeviceKind::Cuda => 0,
        }
    }

    /// The same needs, for windows that use no plan after `last` on a GPU: the leaner ones are made to need what `last` does,
    /// and a worker chooses the first plan that fits.
    #[must_use]
    pub fn up_to(&self, last: MemoryPlan) -> Self {
        let cuda = self.cuda.map(|mut needs| {
            let most = needs.of(last);
            for plan in MemoryPlan::ALL.into_iter().filter(|plan| *plan > last) {
                needs.mib[plan.index()] = most;
            }
            needs
        });
        Self { cuda, ..*self }
    }

    /// These needs, corrected by what finished tasks used on each kind of device.
    #[must_use]
    pub fn corrected<'a>(&self, observed: impl Fn(DeviceKind) -> &'a [MemoryObservation]) -> Self {
        let correct = |kind| self.of(kind).map(|needs| corrected(needs, observed(kind)));
        Self {
            cpu: correct(DeviceKind::Cpu),
            cuda: correct(DeviceKind::Cuda),
            media_mib: self.media_mib,
        }
    }
}

/// Formats an amount of memory for people: `3.9 GiB`, or `640 MiB` below one GiB.
pub fn gib(mib: u64) -> String {
    if mib < 1024 {
        return format!("{mib} MiB");
    }
    format!("{:.1} GiB", mib as f64 / 1024.0)
}
