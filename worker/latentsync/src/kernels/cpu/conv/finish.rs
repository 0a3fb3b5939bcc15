//! The sum of a convolution and its addends.

use crate::kernels::cpu::simd::wide;

/// `to = from + bias (+ residual)`.
pub(super) fn finish(to: &mut [f32], from: &[f32], bias: f32, residual: Option<&[f32]>) {
    wide(
        #[inline(always)]
        || match residual {
            None => {
                for (to, from) in to.iter_mut().zip(from) {
                    *to = from + bias;
                }
            }
            Some(residual) => {
                for ((to, from), residual) in to.iter_mut().zip(from).zip(residual) {
                    *to = from + bias + residual;
                }
            }
        },
    );
}
