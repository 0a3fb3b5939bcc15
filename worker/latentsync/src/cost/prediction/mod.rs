//! What a task needs of a device's memory: the peak of the walk over its operations, and a constant for the process.
//!
//! What is predicted is what a supervisor sees of the engine, at its highest, over a task:
//! - on the CPU its resident set: weights (pages of mapped files count as soon as they were touched), live tensors and
//!   buffers, and a constant for the rest of the process ([`HOST_BASE`]). Without that constant it is what the counting
//!   allocator has at the highest, and the mapped weights;
//! - on CUDA its share of the device: the context ([`CUDA_CONTEXT`]) and the pool, which is what each operation allocates
//!   and what the pool loses between blocks (`pool_size`). Fitted to and tested against what an H200 showed,
//!   `measured.json`; other GPUs are not confirmed.
//!
//! Whatever else runs on the device, and the margin that a worker leaves free for it, are not in the figures.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;

use candle_core::{DType, Result};
use latentfarm_common::wire::memory::{DeviceKind, MemoryPlan, MemoryRequirements};

use super::compute::ComputeSpec;
use super::shape::{ModelShape, WeightCounts};
use super::walk::{StageMemory, walk};

const MIB: u64 = 1 << 20;

/// What the engine's resident set has besides weights and live tensors: the program, its threads, and what the allocator
/// keeps of freed memory for a second. Measured: 34 to 78 MiB, by what was freed within the last second.
pub const HOST_BASE: u64 = 64 * MIB;
/// A CUDA context with all modules and the libraries' own memory. Measured on an H200: 689 MiB.
pub const CUDA_CONTEXT: u64 = 692 * MIB;

/// Bytes of the device that a pool holds in which `live` bytes are in use at the highest: blocks of many sizes come and go,
/// and what lies between them is lost.
fn pool_size(live: u64) -> u64 {
    live + live / 12 + 96 * MIB
}

/// Whether figures for such devices were compared with measured ones.
pub fn is_confirmed(kind: DeviceKind) -> bool {
    kind == DeviceKind::Cpu
}

/// What a task needs under one plan, and where that is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prediction {
    pub plan: MemoryPlan,
    pub need_mib: u64,
    /// MiB of the need that are constant: the process on the CPU, the context on CUDA.
    pub base_mib: u64,
    /// The stage that takes the most.
    pub tightest: StageMemory,
}

impl fmt::Display for Prediction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            plan,
            need_mib,
            base_mib,
            tightest,
        } = self;
        write!(f, "{plan}: {need_mib} MiB, {base_mib} of it the base; {tightest}")
    }
}

/// Predicts what tasks of one model need on one device. Each plan is walked once, with guidance and without.
pub struct MemoryPredictor {
    shape: ModelShape,
    weights: WeightCounts,
    spec: ComputeSpec,
    walked: HashMap<(MemoryPlan, bool), Vec<StageMemory>>,
}

impl MemoryPredictor {
    /// # Errors
    /// If the networks cannot be built from their configurations.
    pub fn new(shape: ModelShape, spec: ComputeSpec) -> Result<Self> {
        Ok(Self {
            weights: shape.weights()?,
            shape,
            spec,
            walked: HashMap::new(),
        })
    }

    /// The predictor for a model that computes in `dtype`.
    ///
    /// # Errors
    /// As for [`MemoryPredictor::new`].
    pub fn with_dtype(shape: ModelShape, kind: DeviceKind, dtype: DType) -> Result<Self> {
        let spec = ComputeSpec {
            bytes_per_value: dtype.size_in_bytes(),
            ..ComputeSpec::of(kind)
        };
        Self::new(shape, spec)
    }

    /// What each stage of a task takes under `plan`, without the constant part.
    pub fn stages(&mut self, plan: MemoryPlan, guided: bool) -> &[StageMemory] {
        let Self {
            shape,
            weights,
            spec,
            walked,
        } = self;
        walked
            .entry((plan, guided))
            .or_insert_with(|| walk(shape, weights, spec, plan, guided).stages)
    }

    /// What a task needs under one plan.
    pub fn predict(&mut self, plan: MemoryPlan, guided: bool) -> Prediction {
        let (base, held): (u64, fn(u64) -> u64) = match self.spec.kind {
            DeviceKind::Cpu => (HOST_BASE, |live| live),
            DeviceKind::Cuda => (CUDA_CONTEXT, pool_size),
        };
        let stages = self.stages(plan, guided);
        let tightest = stages.iter().fold(stages[0], |highest, stage| {
            if stage.peak > highest.peak {
                *stage
            } else {
                highest
            }
        });
        Prediction {
            plan,
            need_mib: (base + held(tightest.peak)).div_ceil(MIB),
            base_mib: base / MIB,
            tightest,
        }
    }

    /// What a task needs under every plan; never growing from the fastest to the leanest.
    pub fn needs(&mut self, guided: bool) -> MemoryRequirements {
        let mut needs = MemoryRequirements::default();
        let mut least = u64::MAX;
        for plan in MemoryPlan::ALL {
            least = least.min(self.predict(plan, guided).need_mib);
            needs.mib[plan.index()] = least;
        }
        needs
    }
}
