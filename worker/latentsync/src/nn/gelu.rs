//! The exact (erf) GELU, alone and as the gate of a GEGLU.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::composed;
use super::matrix::contiguous;
use super::on_own_ops;
use super::simd::{erf, wide};
use crate::boundary::before_copy;

/// GELU of every element.
pub(crate) fn gelu(x: &Tensor) -> Result<Tensor> {
    before_copy(x.elem_count(), x)?;
    activated(x)
}

/// [`gelu`] of what was told already.
pub(super) fn activated(x: &Tensor) -> Result<Tensor> {
    if on_own_ops(x) {
        return x.contiguous()?.apply_op1_no_bwd(&CpuGelu);
    }
    if composed::wide(x) != x.dtype() {
        return activated(&x.to_dtype(composed::wide(x))?)?.to_dtype(x.dtype());
    }
    composed::gelu(x)
}

/// `value x gelu(gate)`, with the value in the first half of the last dimension and the gate in the second. It is a part
/// of the feed-forward, which has told the observer of it.
pub(super) fn gated(x: &Tensor) -> Result<Tensor> {
    if on_own_ops(x) {
        return x.contiguous()?.apply_op1_no_bwd(&CpuGeglu);
    }
    if composed::wide(x) != x.dtype() {
        return gated(&x.to_dtype(composed::wide(x))?)?.to_dtype(x.dtype());
    }
    composed::geglu(x)
}

/// Elements that one thread takes at a time.
const PIECE: usize = 1 << 14;

#[inline(always)]
fn gelu_of(x: f32) -> f32 {
    (erf(x * std::f32::consts::FRAC_1_SQRT_2) + 1.0) * 0.5 * x
}

struct CpuGelu;

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
                wide(
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

struct CpuGeglu;

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
                wide(
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

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn agrees_with_the_exact_form() {
        let values: Vec<f32> = (-7000_i16..7000).map(|i| f32::from(i) / 1000.0).collect();
        let x = Tensor::from_vec(values, (2, 7000), &Device::Cpu).unwrap();
        let largest = |difference: Tensor| {
            let largest = difference.abs().unwrap().max_all().unwrap();
            largest.to_scalar::<f32>().unwrap()
        };
        assert!(largest((gelu(&x).unwrap() - x.gelu_erf().unwrap()).unwrap()) < 2e-6);
        assert!(largest((gated(&x).unwrap() - composed::geglu(&x).unwrap()).unwrap()) < 1e-5);
    }
}
