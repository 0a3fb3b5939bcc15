//! What an operation of the networks takes of a device's memory while it runs, and what of it stays.
//!
//! | device           | how the operations work                                                                      |
//! |------------------|----------------------------------------------------------------------------------------------|
//! | CPU, `f32`       | our own operations, one pass each: a result, and buffers for tiles, patches and scores       |
//! | CUDA, half types | put together from tensor operations: patches, scores and a copy for every sum                |
//!
//! Operands are not counted: they were there before. Sizes are bytes.

mod cpu;
mod cuda;
mod figures;

use latentfarm_common::wire::memory::DeviceKind;

pub use self::figures::{Details, OpMemory};
use super::compute::ComputeSpec;
use crate::hooks::Op;
use crate::slices::Limits;

/// The memory of `op` under `limits`.
pub fn op_memory(op: Op, details: Details, spec: &ComputeSpec, limits: Limits) -> OpMemory {
    match spec.kind {
        DeviceKind::Cpu => cpu::op_memory(op, spec.threads),
        DeviceKind::Cuda => cuda::op_memory(op, details, spec.bytes_per_value, limits),
    }
}

/// The memory of the feed-forward of `rows` rows that are `width` wide, in slices; it is 4 x `width` wide inside.
pub fn feed_forward_memory(rows: usize, width: usize, spec: &ComputeSpec, limits: Limits) -> OpMemory {
    match spec.kind {
        DeviceKind::Cpu => cpu::feed_forward_memory(rows, width, spec.threads, limits),
        DeviceKind::Cuda => cuda::feed_forward_memory(rows, width, spec.bytes_per_value, limits),
    }
}
