//! The machine under a made-up worker.

use latentfarm_common::wire::memory::{DeviceKind, MemoryPlan, MemoryStage, MemoryUse, Needs, StagePeak};
use latentfarm_common::wire::outcome::{Failure, Reach};

/// What a worker runs on.
#[derive(Clone, Copy, Debug)]
pub struct Rig {
    pub reach: Reach,
    /// What windows really need of its device; where that is more than it has, a task that is to succeed runs out
    /// of memory instead. `None`: whatever was predicted.
    pub truth: Option<Needs>,
    /// Milliseconds of the engine for a frame, as the records tell.
    pub frame_ms: u64,
}

impl Default for Rig {
    fn default() -> Self {
        Self::cpu(16_384)
    }
}

impl Rig {
    pub fn cpu(mib: u64) -> Self {
        let reach = Reach {
            host_mib: Some(mib),
            device_mib: None,
        };
        Self {
            reach,
            truth: None,
            frame_ms: 0,
        }
    }

    pub fn gpu(mib: u64) -> Self {
        let reach = Reach {
            host_mib: None,
            device_mib: Some(mib),
        };
        Self {
            reach,
            truth: None,
            frame_ms: 0,
        }
    }

    pub fn device(&self) -> &'static str {
        if self.reach.device_mib.is_some() {
            "cuda:0 Fake"
        } else {
            "cpu"
        }
    }

    pub fn free_mib(&self, kind: DeviceKind) -> u64 {
        match kind {
            DeviceKind::Cpu => self.reach.host_mib.unwrap(),
            DeviceKind::Cuda => self.reach.device_mib.unwrap(),
        }
    }

    /// What a task comes to under the plan that the worker chooses.
    pub fn run(&self, plan: &MemoryPlan) -> Result<MemoryUse, Failure> {
        let free_mib = self.free_mib(plan.kind);
        let rung = plan
            .needs
            .fastest_within(plan.floor, free_mib)
            .expect("the lane's class fits");
        let needed = self.truth.unwrap_or(plan.needs).of(rung);
        if needed > free_mib {
            return Err(Failure::OutOfMemory {
                device: self.device().to_owned(),
                stage: "denoise".to_owned(),
                rung,
                needed_at_least_mib: Some(needed),
                free_before_mib: free_mib,
                suspected: false,
            });
        }
        let peak = StagePeak {
            stage: MemoryStage::Denoise,
            live_mib: needed,
            own_mib: needed,
        };
        Ok(MemoryUse {
            kind: plan.kind,
            device: self.device().to_owned(),
            rung,
            predicted_mib: plan.needs.of(rung),
            peak_mib: needed,
            least_free_mib: free_mib - needed,
            stages: vec![peak],
        })
    }
}
