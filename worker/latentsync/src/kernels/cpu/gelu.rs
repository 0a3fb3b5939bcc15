//! The exact (erf) GELU on the CPU, alone and as the gate of a GEGLU.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape};
use rayon::prelude::*;

use super::matrix::contiguous;
use super::simd::{dispatch_simd, erf};

/// Elements that a thread takes at a time.
const PIECE: usize = 1 << 14;

#[inline(always)]
fn gelu_of(x: f32) -> f32 {
    (erf(x * std::f32::consts::FRAC_1_SQRT_2) + 1.0) * 0.5 * x
}

/// The operation that applies the exact GELU to every element.
pub(crate) struct CpuGelu;

impl CustomOp1 for CpuGelu {
    fn name(&self) -> &'static str {
        "gelu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = contiguous(x, layout)?;
        let mut out = vec![0.0_f32; x.len()];
        out.par_chunks_mut(PIECE)
            .zip(x.par_chunks(PIECE))
            .for_each(|(out, x)| {
                dispatch_simd(
                    #[inline(always)]
                    || {
                        for (out, &x) in out.iter_mut().zip(x) {
                            *out = gelu_of(x);
                        }
                    },
                );
            });
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }
}

/// `value x gelu(gate)` of `(.., 2 x width)`, with the value in the first half of the last dimension.
pub(crate) struct CpuGeglu;

impl CustomOp1 for CpuGeglu {
    fn name(&self) -> &'static str {
        "geglu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = contiguous(x, layout)?;
        let mut shape = layout.shape().dims().to_vec();
        let width = shape.pop().unwrap_or(2) / 2;
        shape.push(width);
        let mut out = vec![0.0_f32; x.len() / 2];
        out.par_chunks_mut(width)
            .zip(x.par_chunks(2 * width))
            .with_min_len((PIECE / width).max(1))
            .for_each(|(out, x)| {
                let (values, gates) = x.split_at(width);
                dispatch_simd(
                    #[inline(always)]
                    || {
                        for ((out, &value), &gate) in out.iter_mut().zip(values).zip(gates) {
                            *out = value * gelu_of(gate);
                        }
                    },
                );
            });
        Ok((CpuStorage::F32(out), Shape::from(shape)))
    }
}
