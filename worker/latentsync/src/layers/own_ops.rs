//! Which kernels a layer runs.

use candle_core::{DType, Result, Tensor};

use crate::boundary::levers;
use crate::kernels::reference;

/// Whether `x` is worked on by the operations that were written for the CPU in `f32`, not by the reference backend.
pub(super) fn on_own_ops(x: &Tensor) -> bool {
    x.device().is_cpu() && x.dtype() == DType::F32 && !levers().composed
}

/// `x` in the type that its operation computes in, if that is another than its own: half types on the CPU are computed in
/// `f32` and rounded once at the end.
pub(super) fn widened(x: &Tensor) -> Result<Option<Tensor>> {
    let wide = reference::wide(x);
    (wide != x.dtype()).then(|| x.to_dtype(wide)).transpose()
}
