//! The prediction of the device memory that a task needs: the peak of the walk over its operations, and a
//! constant for the process. Workers choose a memory plan by it, and `weights describe` prints it.
//!
//! The prediction is for the highest memory use of the engine over a task, as its supervisor measures it:
//! - on the CPU it is the resident set: weights (pages of mapped files count as soon as they were touched),
//!   live tensors and workspaces, and a constant for the rest of the process ([`HOST_BASE`]). Without that
//!   constant it is the peak of the counting allocator plus the mapped weights;
//! - on CUDA it is the process's memory on the device: the context ([`CUDA_CONTEXT`]) and the pool, which is
//!   what the operations allocate plus what the pool loses to fragmentation. The constants ([`CUDA`]) are
//!   fitted to measurements on an H200 ([`fit`]), and the predictions are tested against those of another
//!   session on it, `measured.json`; other GPUs were not measured.
//!
//! A picture that the image autoencoder computes again in `f32`, because values left the range of a half type,
//! is in the figures.
//!
//! The memory of other processes on the device, and the margin that a worker leaves free for them, are not in
//! the figures.

mod cuda_constants;
pub mod fit;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;

use candle_core::{DType, Result};
use latentfarm_common::wire::memory::{DeviceKind, MemoryPlan, MemoryRequirements};

pub use self::cuda_constants::CudaConstants;
use super::compute::ComputeSpec;
use super::shape::{ModelShape, WeightCounts};
pub use super::walk::StageMemory;
use super::walk::{Walk, walk};

const MIB: u64 = 1 << 20;

/// The part of the engine's resident set besides weights and live tensors: the program, its threads, the
/// buffer for packed operands that the matrix kernels keep for each thread (as large as the second-level
/// cache, 1 or 2 MiB on most servers), and the freed memory that the allocator keeps for a second. It was
/// measured as 34 to 78 MiB, depending on what was freed within the last second.
pub const HOST_BASE: u64 = 64 * MIB;
/// The constants for CUDA, which [`fit`](fit::fit) gives for the measurements on an H200 in
/// `worker/measurements/h200-2026-11-27-gpu-check.jsonl`: the context with all modules and of the libraries, and what the
/// pool loses to fragmentation between blocks of many sizes.
pub const CUDA: CudaConstants = CudaConstants {
    context_mib: 692,
    share: 14,
    fixed_mib: 128,
};
/// The bytes of a CUDA context with all modules and of the libraries.
pub const CUDA_CONTEXT: u64 = CUDA.context_mib * MIB;

/// Returns whether the figures for a kind of device hold for all such devices. Those for CUDA were measured
/// on one GPU only.
pub fn is_validated(kind: DeviceKind) -> bool {
    kind == DeviceKind::Cpu
}

/// The memory that a task needs under one plan, and the stage and the operation that decide it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryPrediction {
    /// The memory plan that the prediction is for.
    pub plan: MemoryPlan,
    /// The needed memory in MiB.
    pub need_mib: u64,
    /// The constant part of it in MiB: the process on the CPU, the context on CUDA.
    pub base_mib: u64,
    /// The stage that needs the most memory.
    pub tightest: StageMemory,
}

impl fmt::Display for MemoryPrediction {
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

/// Predicts the memory that tasks of one model need on one device. Each plan is walked once with guidance and
/// once without.
pub struct MemoryPredictor {
    shape: ModelShape,
    weights: WeightCounts,
    spec: ComputeSpec,
    walked: HashMap<(MemoryPlan, bool), Walk>,
}

impl MemoryPredictor {
    /// Creates a predictor for a model on a device.
    ///
    /// # Errors
    /// Fails if the networks cannot be built from their configurations.
    pub fn new(shape: ModelShape, spec: ComputeSpec) -> Result<Self> {
        Ok(Self {
            weights: shape.weights()?,
            shape,
            spec,
            walked: HashMap::new(),
        })
    }

    /// Creates a predictor for a model that computes in `dtype`.
    ///
    /// # Errors
    /// See [`MemoryPredictor::new`].
    pub fn with_dtype(shape: ModelShape, kind: DeviceKind, dtype: DType) -> Result<Self> {
        let spec = ComputeSpec {
            bytes_per_value: dtype.size_in_bytes(),
            ..ComputeSpec::of(kind)
        };
        Self::new(shape, spec)
    }

    /// Returns the memory of each stage of a task under `plan`, without the constant part.
    pub fn stages(&mut self, plan: MemoryPlan, guided: bool) -> &[StageMemory] {
        &self.walked(plan, guided).stages
    }

    /// Returns the stage of a task under `plan` that needs the most memory if no value leaves the range of a
    /// half type.
    pub fn tightest_stage(&mut self, plan: MemoryPlan, guided: bool) -> StageMemory {
        highest(&self.walked(plan, guided).stages)
    }

    fn walked(&mut self, plan: MemoryPlan, guided: bool) -> &Walk {
        let Self {
            shape,
            weights,
            spec,
            walked,
        } = self;
        walked
            .entry((plan, guided))
            .or_insert_with(|| walk(shape, weights, spec, plan, guided))
    }

    /// Predicts the memory that a task needs under one plan. A picture that has to be computed again in `f32`
    /// is in it.
    pub fn predict(&mut self, plan: MemoryPlan, guided: bool) -> MemoryPrediction {
        let (base, held): (u64, fn(u64) -> u64) = match self.spec.kind {
            DeviceKind::Cpu => (HOST_BASE, |live| live),
            DeviceKind::Cuda => (CUDA_CONTEXT, |live| CUDA.pool_size(live)),
        };
        let walked = self.walked(plan, guided);
        let tightest = highest(walked.stages.iter().chain(&walked.in_f32));
        MemoryPrediction {
            plan,
            need_mib: (base + held(tightest.peak)).div_ceil(MIB),
            base_mib: base / MIB,
            tightest,
        }
    }

    /// Predicts the memory that a task needs under every plan. A plan never needs more than a faster one.
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

/// Returns the stage with the highest peak, the first of several; every task has stages.
fn highest<'a>(stages: impl IntoIterator<Item = &'a StageMemory>) -> StageMemory {
    let higher = |a: StageMemory, b: StageMemory| if b.peak > a.peak { b } else { a };
    let highest = stages.into_iter().copied().reduce(higher);
    highest.unwrap_or_else(|| unreachable!("a walk has five stages"))
}
