//! A simulated GPU, for tests and demonstrations of the farm without one. The networks run on the CPU, and
//! every stage is charged the memory that it would take on a GPU, on top of a CUDA context of the size that
//! predictions assume.

use latentfarm_common::wire::memory::{DeviceKind, MemorySample, MemoryStage};

use super::interface::{EngineMemory, MIB, Shortage, StageWork};
use latentfarm_common::host;
use latentfarm_common::simulated_device::SimulatedDevice;
use latentsync::Checkpoint;
use latentsync::cost::compute::ComputeSpec;
use latentsync::cost::prediction::{CUDA_CONTEXT, MemoryPredictor};
use latentsync::cost::shape::ModelShape;

/// Memory of a simulated device. The charges are predicted by the walk over the model's operations.
pub struct SimulatedMemory {
    device: SimulatedDevice,
    /// Predicts the charges of the loaded model.
    model: Option<MemoryPredictor>,
    /// Bytes in use since the last charge, without leaks.
    live: u64,
    peak: u64,
    leaked: u64,
    /// Bytes that the last charge needed, whether it fitted or not.
    wanted: u64,
}

/// Returns a predictor for the model, or `None` if its networks cannot be walked; nothing is charged for the
/// model then.
fn predictor(checkpoint: &Checkpoint) -> Option<MemoryPredictor> {
    let shape = ModelShape::accounted(checkpoint).map_err(candle_core::Error::wrap);
    shape
        .and_then(|shape| MemoryPredictor::new(shape, ComputeSpec::of(DeviceKind::Cuda)))
        .inspect_err(|error| tracing::warn!(%error, "the simulated device cannot account for this model"))
        .ok()
}

impl SimulatedMemory {
    /// Makes the memory of `device`, with nothing loaded.
    pub fn new(device: SimulatedDevice) -> Self {
        Self {
            device,
            model: None,
            live: 0,
            peak: 0,
            leaked: 0,
            wanted: 0,
        }
    }

    /// Returns the bytes that this engine may use.
    fn limit(&self) -> u64 {
        let mib = self.device.total_mib().saturating_sub(self.device.tenant_mib());
        mib * MIB
    }

    /// Returns what `walked` predicted bytes really cost on this device.
    fn real(&self, walked: u64) -> u64 {
        walked.saturating_mul(self.device.cost_percent()) / 100
    }

    /// Charges a stage that uses `peak` bytes at most and leaves `after` bytes in use.
    fn charge(&mut self, peak: u64, after: u64) -> Result<(), Shortage> {
        let (limit, needed) = (self.limit(), CUDA_CONTEXT + peak + self.leaked);
        self.wanted = needed;
        if needed > limit {
            return Err(Shortage { needed, limit });
        }
        self.peak = self.peak.max(peak + self.leaked);
        self.live = after;
        Ok(())
    }
}

impl EngineMemory for SimulatedMemory {
    /// The CPU, which computes, survives a panic.
    fn survives_panic(&self) -> bool {
        true
    }

    fn reading(&self) -> MemorySample {
        let live = self.live + self.leaked;
        let own = CUDA_CONTEXT + live;
        MemorySample {
            free: self.limit().saturating_sub(own),
            total: self.device.total_mib() * MIB,
            own,
            reserved: live,
            reserved_peak: 0,
            live,
            live_peak: 0,
            host_rss: host::own_rss_mib() * MIB,
        }
    }

    fn take_peak(&mut self) -> u64 {
        let live = self.live + self.leaked;
        std::mem::replace(&mut self.peak, live).max(live)
    }

    fn load(&mut self, checkpoint: &Checkpoint, work: StageWork) -> Result<(), Shortage> {
        self.model = predictor(checkpoint);
        self.begin(work)
    }

    fn unloaded(&mut self) {
        self.model = None;
        self.live = 0;
        // A device's high water goes back to what is in use once it was read; the weights are gone by then.
        self.peak = self.leaked;
    }

    fn begin(&mut self, work: StageWork) -> Result<(), Shortage> {
        let Some(model) = &mut self.model else {
            return Ok(());
        };
        // While the engine is idle, the weights that loading left are in use.
        let charged = match work.stage {
            MemoryStage::Idle => MemoryStage::Load,
            stage => stage,
        };
        let stages = model.stages(work.plan, work.guided);
        let Some(cost) = stages.iter().find(|cost| cost.stage == charged).copied() else {
            return Ok(());
        };
        let (after, peak) = (self.real(cost.live_after), self.real(cost.peak));
        if work.stage == MemoryStage::Idle {
            // The idle stage needs nothing: what the last stage took is free again.
            self.live = after;
            return Ok(());
        }
        self.charge(peak, after)
    }

    fn needed_at_least(&self) -> u64 {
        self.wanted
    }

    fn trim(&mut self, _keep: u64) {}

    fn leak(&mut self, bytes: u64) {
        self.leaked += bytes;
    }
}
