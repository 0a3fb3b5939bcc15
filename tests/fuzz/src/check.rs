//! What every target does with an input.

/// Fails if the input shows a fault.
pub type Check = fn(&[u8]);
