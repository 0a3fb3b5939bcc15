//! The memory that an operation of the networks takes of a device while it runs, and the part of it that its
//! result keeps. The walk adds them up; the engine checks a memory budget with [`op_memory`] before each
//! operation.
//!
//! | device           | how the operations are implemented                                                           |
//! |------------------|----------------------------------------------------------------------------------------------|
//! | CPU, `f32`       | this crate's kernels, one pass each: a result, and workspaces for tiles, patches and scores  |
//! | CUDA, half types | put together from tensor operations: patches, scores and a copy for every sum                |
//!
//! Operands are not counted, because they were allocated before. Sizes are in bytes.

mod cpu;
mod cuda;
mod figures;

use latentfarm_common::wire::memory::DeviceKind;

pub use self::figures::{OpMemory, OpParams};
use super::compute::ComputeSpec;
use crate::hooks::Op;
use crate::slices::SliceLimits;

/// Returns the memory of `op` under `limits`.
pub fn op_memory(op: Op, details: OpParams, spec: &ComputeSpec, limits: SliceLimits) -> OpMemory {
    match spec.kind {
        DeviceKind::Cpu => cpu::op_memory(op, spec.threads),
        DeviceKind::Cuda => cuda::op_memory(op, details, spec.bytes_per_value, limits),
    }
}

/// Returns the memory of a feed-forward in slices. Its `rows` rows are `width` wide, and 4 x `width` wide
/// inside.
pub(crate) fn feed_forward_memory(
    rows: usize,
    width: usize,
    spec: &ComputeSpec,
    limits: SliceLimits,
) -> OpMemory {
    match spec.kind {
        DeviceKind::Cpu => cpu::feed_forward_memory(rows, width, spec.threads, limits),
        DeviceKind::Cuda => cuda::feed_forward_memory(rows, width, spec.bytes_per_value, limits),
    }
}
