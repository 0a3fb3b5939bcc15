//! Norm over the last dimension.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::matrix::{contiguous, lend};
use super::on_own_ops;
use super::simd::{lane_sum, wide};
use crate::boundary::{Op, before};
use crate::weights::Keys;

const EPS: f32 = 1e-5;

/// Norm over the last dimension, eps 1e-5.
pub(crate) struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
}

impl LayerNorm {
    pub(crate) fn load(keys: &Keys, width: usize) -> Result<Self> {
        Ok(Self {
            weight: keys.get(&[width], "weight")?,
            bias: keys.get(&[width], "bias")?,
        })
    }

    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let width = self.weight.elem_count();
        let rows = x.elem_count() / width.max(1);
        before(Op::LayerNorm { rows, width }, x)?;
        let x = x.contiguous()?;
        if on_own_ops(&x) {
            let (weight, bias) = (&self.weight, &self.bias);
            return x.apply_op1_no_bwd(&CpuLayerNorm { weight, bias });
        }
        candle_nn::ops::layer_norm(&x, &self.weight, &self.bias, EPS)
    }
}

struct CpuLayerNorm<'a> {
    weight: &'a Tensor,
    bias: &'a Tensor,
}

/// Elements that one thread takes at a time, about.
const PIECE: usize = 1 << 14;

impl CustomOp1 for CpuLayerNorm<'_> {
    fn name(&self) -> &'static str {
        "layer-norm"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = contiguous(x, layout)?;
        let (weight, bias) = (lend(self.weight)?, lend(self.bias)?);
        let (weight, bias) = (weight.values(), bias.values());
        let width = weight.len().max(1);
        let mut out = vec![0.0_f32; x.len()];
        out.par_chunks_mut(width)
            .zip(x.par_chunks(width))
            .with_min_len((PIECE / width).max(1))
            .for_each(|(out, x)| {
                wide(
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

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn one_operation_agrees_with_candle() {
        for (rows, width) in [(1, 1), (3, 5), (70, 16), (9, 333), (1000, 64)] {
            let tensor = |count: usize, step: usize| {
                let values: Vec<f32> = (0..count)
                    .map(|i| ((i * step % 101) as f32 - 40.0) / 17.0)
                    .collect();
                Tensor::from_vec(values, count, &Device::Cpu).unwrap()
            };
            let norm = LayerNorm {
                weight: tensor(width, 13),
                bias: tensor(width, 29),
            };
            let x = tensor(rows * width, 37).reshape((rows, width)).unwrap();
            let expected = candle_nn::ops::layer_norm_slow(&x, &norm.weight, &norm.bias, EPS).unwrap();
            let difference = (norm.forward(&x).unwrap() - expected).unwrap().abs().unwrap();
            let largest = difference.max_all().unwrap().to_scalar::<f32>().unwrap();
            assert!(largest < 2e-5, "{rows} x {width}: {largest}");
        }
    }
}
