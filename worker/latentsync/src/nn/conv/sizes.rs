//! How large one convolution is, and what is added to its sums.

use crate::nn::simd::wide;

/// The sizes of one convolution.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub(super) images: usize,
    pub(super) input: usize,
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) output: usize,
    pub(super) kernel: usize,
    pub(super) stride: usize,
    pub(super) padding: usize,
    pub(super) out_height: usize,
    pub(super) out_width: usize,
}

/// What is added to every pixel of the result.
#[derive(Clone, Copy)]
pub(super) struct Addends<'a> {
    pub(super) bias: &'a [f32],
    /// Images that share a row of the bias.
    pub(super) images_per_bias: usize,
    pub(super) residual: Option<&'a [f32]>,
}

impl Addends<'_> {
    /// The bias of one channel of one image.
    pub(super) fn bias(&self, sizes: Sizes, image: usize, channel: usize) -> f32 {
        self.bias[image / self.images_per_bias * sizes.output + channel]
    }
}

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
