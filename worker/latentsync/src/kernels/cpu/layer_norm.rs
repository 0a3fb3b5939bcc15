//! Layer norm on the CPU.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::matrix::{borrow_values, contiguous};
use super::simd::{dispatch_simd, lane_sum};

/// Term that is added to the variance.
pub(crate) const EPS: f32 = 1e-5;

/// Layer norm over the last dimension, with weight and bias `(width)`.
pub(crate) struct CpuLayerNorm<'a> {
    pub(crate) weight: &'a Tensor,
    pub(crate) bias: &'a Tensor,
}

/// Approximate number of elements that a thread takes at a time.
const PIECE: usize = 1 << 14;

impl CustomOp1 for CpuLayerNorm<'_> {
    fn name(&self) -> &'static str {
        "layer-norm"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = contiguous(x, layout)?;
        let (weight, bias) = (borrow_values(self.weight)?, borrow_values(self.bias)?);
        let (weight, bias) = (weight.values(), bias.values());
        let width = weight.len().max(1);
        let mut out = vec![0.0_f32; x.len()];
        out.par_chunks_mut(width)
            .zip(x.par_chunks(width))
            .with_min_len((PIECE / width).max(1))
            .for_each(|(out, x)| {
                dispatch_simd(
                    #[inline(always)]
                    || norm(out, x, weight, bias),
                );
            });
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }
}

#[inline(always)]
fn norm(out: &mut [f32], x: &[f32], weight: &[f32], bias: &[f32]) {
    let count = x.len() as f32;
    let mean = lane_sum(
        x,
        #[inline(always)]
        |value| value,
    ) / count;
    let variance = lane_sum(
        x,
        #[inline(always)]
        |value| (value - mean) * (value - mean),
    ) / count;
    let scale = 1.0 / (variance + EPS).sqrt();
    for (((out, x), weight), bias) in out.iter_mut().zip(x).zip(weight).zip(bias) {
        *out = (x - mean) * scale * weight + bias;
    }
}
