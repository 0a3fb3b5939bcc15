//! The type that an operation computes in.

use candle_core::{Result, Tensor};

use crate::kernels::reference;

/// `x` in the type that its operation computes in, if that is another than its own: half types on the CPU are computed in
/// `f32` and rounded once at the end.
pub(super) fn widened(x: &Tensor) -> Result<Option<Tensor>> {
    let wide = reference::wide(x);
    (wide != x.dtype()).then(|| x.to_dtype(wide)).transpose()
}
