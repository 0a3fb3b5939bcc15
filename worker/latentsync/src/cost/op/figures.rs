//! The types of the memory figures of an operation.

/// The bytes that an operation takes besides its operands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpMemory {
    /// The most bytes that are in use at once, the result included.
    pub peak: u64,
    /// The bytes of the result.
    pub kept: u64,
}

/// The parameters that the memory of an operation depends on besides its sizes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpParams {
    /// The number of tensors that are added to the result one after the other: bias, shift, residual.
    pub addends: usize,
    /// The groups of a group norm.
    pub groups: usize,
    /// Whether attention runs over another dimension than the last but one, so that its operands are copied
    /// first.
    pub across: bool,
}

/// Returns the bytes of `values` values of `each` bytes.
pub(super) fn bytes(values: usize, each: usize) -> u64 {
    values as u64 * each as u64
}
