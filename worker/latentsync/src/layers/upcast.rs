//! The conversion of half types before an operation of the reference backend.

use candle_core::{Result, Tensor};

use crate::kernels::reference;

/// Converts `x` to the type that its operation computes in; `None` if that is its own type. On the CPU half
/// types are computed in `f32`, and the caller rounds the result once at the end.
pub(super) fn upcast(x: &Tensor) -> Result<Option<Tensor>> {
    let dtype = reference::compute_dtype(x);
    (dtype != x.dtype()).then(|| x.to_dtype(dtype)).transpose()
}
