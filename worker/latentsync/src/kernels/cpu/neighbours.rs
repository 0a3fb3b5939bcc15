//! Tokens with their neighbours side by side: the input of a convolution over time as a matrix ("im2col" in
//! one dimension).

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape};
use rayon::prelude::*;

use super::matrix::contiguous;

/// Width of the convolution: the token and one neighbour on each side.
pub(crate) const TAPS: usize = 3;

/// Turns `(tokens, input)` into `(tokens / stride, input x 3)`, rounded up, with zeros beside the first and
/// the last token.
pub(crate) struct CpuNeighbours {
    pub(crate) stride: usize,
}

impl CustomOp1 for CpuNeighbours {
    fn name(&self) -> &'static str {
        "neighbours"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (tokens, input) = layout.shape().dims2()?;
        let x = contiguous(x, layout)?;
        let count = tokens.div_ceil(self.stride);
        let mut out = vec![0.0_f32; count * input * TAPS];
        out.par_chunks_mut((input * TAPS).max(1))
            .enumerate()
            .for_each(|(i, out)| {
                for tap in 0..TAPS {
                    let Some(token) = (i * self.stride + tap)
                        .checked_sub(1)
                        .filter(|&token| token < tokens)
                    else {
                        continue;
                    };
                    let from = &x[token * input..(token + 1) * input];
                    for (to, from) in out[tap..].iter_mut().step_by(TAPS).zip(from) {
                        *to = *from;
                    }
                }
            });
        Ok((CpuStorage::F32(out), Shape::from((count, input * TAPS))))
    }
}
