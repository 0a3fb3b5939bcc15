//! The memory of an operation, and what decides about it besides the operation's sizes.

/// Bytes that an operation takes besides its operands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpMemory {
    /// Bytes at the highest, the result included.
    pub peak: u64,
    /// Bytes of the result.
    pub kept: u64,
}

/// What decides about the memory of an operation besides its sizes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Details {
    /// Tensors that are added to the result one after the other: bias, shift, residual.
    pub addends: usize,
    /// Groups of a norm.
    pub groups: usize,
    /// Whether attention runs over another dimension than the last but one: its operands are copied then.
    pub across: bool,
}

pub(super) fn bytes(values: usize, each: usize) -> u64 {
    values as u64 * each as u64
}
