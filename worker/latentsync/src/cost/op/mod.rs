//! What an operation of the networks takes of a device's memory while it runs, and what of it stays.
//!
//! | device           | how the operations work                                                                      |
//! |------------------|----------------------------------------------------------------------------------------------|
//! | CPU, `f32`       | our own operations, one pass each: a result, and room for tiles, patches and scores          |
//! | CUDA, half types | put together from tensor operations: patches, scores and a copy for every sum                |
//!
//! Operands are not counted, they were there before. Sizes are bytes.

mod cpu;
mod cuda;

use latentfarm_common::wire::memory::DeviceKind;

use crate::boundary::Op;
use crate::slices::Limits;

/// On what kind of device, and in what, the networks compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Account {
    pub kind: DeviceKind,
    /// Of a value of the networks' type: 4 on the CPU, 2 for the half types on CUDA.
    pub bytes_per_value: usize,
    /// Threads that compute; each has room of its own. Only the CPU's count.
    pub threads: usize,
}

impl Account {
    /// Threads where nobody said how many: a few more or fewer matter little.
    pub const THREADS: usize = 4;

    /// The device with the type that it is used with: `f32` on the CPU, a half type on CUDA.
    pub fn of(kind: DeviceKind) -> Self {
        Self {
            kind,
            bytes_per_value: match kind {
                DeviceKind::Cpu => 4,
                DeviceKind::Cuda => 2,
            },
            threads: Self::THREADS,
        }
    }
}

/// Bytes besides the operands'.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// At the highest, the result included.
    pub peak: u64,
    /// Of the result.
    pub kept: u64,
}

/// What decides about the memory of an operation besides its sizes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Details {
    /// Tensors added to the result one after the other: bias, shift, residual.
    pub addends: usize,
    /// Groups of a norm.
    pub groups: usize,
    /// Attention over another dimension than the one that lies last but one: its operands are copied.
    pub across: bool,
}

/// The cost of `op` under `limits`.
pub fn cost(op: Op, details: Details, account: &Account, limits: Limits) -> Cost {
    match account.kind {
        DeviceKind::Cpu => cpu::cost(op, account),
        DeviceKind::Cuda => cuda::cost(op, details, account.bytes_per_value, limits),
    }
}

/// The cost of the feed-forward of `rows` rows that are `width` wide, in slices; 4 x `width` wide inside.
pub fn feed_forward(rows: usize, width: usize, account: &Account, limits: Limits) -> Cost {
    match account.kind {
        DeviceKind::Cpu => cpu::feed_forward(rows, width, account, limits),
        DeviceKind::Cuda => cuda::feed_forward(rows, width, account.bytes_per_value, limits),
    }
}

fn bytes(values: usize, each: usize) -> u64 {
    values as u64 * each as u64
}
