//! The epilogue of a convolution: bias and residual are added to its product.

use crate::kernels::cpu::simd::dispatch_simd;

/// Computes `to = from + bias`, plus the residual if there is one.
pub(super) fn add_epilogue(to: &mut [f32], from: &[f32], bias: f32, residual: Option<&[f32]>) {
    dispatch_simd(
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
