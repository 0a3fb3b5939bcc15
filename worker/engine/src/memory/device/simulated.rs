//! A GPU that does not exist: the networks run on the CPU, and every stage is charged what it would take there, beside
//! a context of the size that predictions count with.

use latentfarm_common::wire::memory::{DeviceKind, MemoryPlan, MemorySample, MemoryStage};

use super::interface::{EngineMemory, MIB, Shortage, Work};
use crate::memory::host;
use crate::memory::simulated::SimulatedDevice;
use latentsync::Checkpoint;
use latentsync::boundary::Op;
use latentsync::cost::model::CUDA_CONTEXT;
use latentsync::cost::walk::{Account, ModelShape, Walk, walk};

/// Memory of a simulated device, charged by the walk over the model's operations.
pub struct SimulatedMemory {
    device: SimulatedDevice,
    model: Option<Model>,
    /// In use as of the last charge, leaks aside.
    live: u64,
    peak: u64,
    leaked: u64,
    /// What the last charge would have come to.
    wanted: u64,
}

/// What the loaded model takes, as walked for the plans that were asked for so far.
struct Model {
    shape: ModelShape,
    walks: Vec<(MemoryPlan, bool, Walk)>,
}

/// What a stage takes of the device, weights included.
#[derive(Clone, Copy)]
struct Charge {
    after: u64,
    peak: u64,
}

impl Model {
    /// `None` where the model cannot be walked: nothing is charged for it then.
    fn of(checkpoint: &Checkpoint) -> Option<Self> {
        match ModelShape::accounted(checkpoint) {
            Ok(shape) => Some(Self {
                shape,
                walks: Vec::new(),
            }),
            Err(error) => {
                tracing::warn!(%error, "the simulated device cannot account for this model");
                None
            }
        }
    }

    fn charge(&mut self, work: Work) -> Charge {
        let none = Charge { after: 0, peak: 0 };
        let Some(walk) = self.walk(work.plan, work.guided) else {
            return none;
        };
        // Between the stages there is what loading left: the weights that stay.
        let stage = match work.stage {
            MemoryStage::Idle => MemoryStage::Load,
            stage => stage,
        };
        walk.stage(stage).map_or(none, |cost| Charge {
            after: cost.live_after,
            peak: cost.peak,
        })
    }

    fn walk(&mut self, plan: MemoryPlan, guided: bool) -> Option<&Walk> {
        let known = self
            .walks
            .iter()
            .position(|(of, with, _)| (*of, *with) == (plan, guided));
        let at = if let Some(at) = known {
            at
        } else {
            let walked = walk(&self.shape, &Account::of(DeviceKind::Cuda), plan, guided);
            let walked = walked.inspect_err(|error| tracing::warn!(%error, "the model cannot be walked"));
            self.walks.push((plan, guided, walked.ok()?));
            self.walks.len() - 1
        };
        self.walks.get(at).map(|(_, _, walk)| walk)
    }
}

impl SimulatedMemory {
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

    /// Bytes that this engine may use.
    fn limit(&self) -> u64 {
        let mib = self.device.total_mib().saturating_sub(self.device.tenant_mib());
        mib * MIB
    }

    fn real(&self, walked: u64) -> u64 {
        walked.saturating_mul(self.device.cost_percent()) / 100
    }

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
    /// The CPU does.
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
            live,
            live_peak: 0,
            host_rss: host::own_rss_mib() * MIB,
        }
    }

    fn take_peak(&mut self) -> u64 {
        let live = self.live + self.leaked;
        std::mem::replace(&mut self.peak, live).max(live)
    }

    fn load(&mut self, checkpoint: &Checkpoint, work: Work) -> Result<(), Shortage> {
        self.model = Model::of(checkpoint);
        self.begin(work)
    }

    fn loaded(&mut self, _checkpoint: &Checkpoint) {}

    fn unloaded(&mut self) {
        self.model = None;
        self.live = 0;
    }

    fn begin(&mut self, work: Work) -> Result<(), Shortage> {
        let Some(model) = &mut self.model else {
            return Ok(());
        };
        let Charge { after, peak } = model.charge(work);
        let (after, peak) = (self.real(after), self.real(peak));
        if work.stage == MemoryStage::Idle {
            // Nothing is asked for: what a stage took is given back.
            self.live = after;
            return Ok(());
        }
        self.charge(peak, after)
    }

    /// Stages are charged as a whole.
    fn before(&mut self, _op: Op, _value_bytes: usize) -> Result<(), Shortage> {
        Ok(())
    }

    fn refused(&self) -> u64 {
        self.wanted
    }

    fn recover(&mut self) -> bool {
        false
    }

    fn trim(&mut self, _keep: u64) {}

    fn leak(&mut self, bytes: u64) {
        self.leaked += bytes;
    }
}
