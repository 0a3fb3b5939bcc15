//! The layer norm of the transformer blocks.

use candle_core::{Result, Tensor};

use crate::hooks::Op;
use crate::kernels::cpu::{CpuLayerNorm, EPS};
use crate::kernels::cuda;
use crate::run::Run;
use crate::tensors::VarBuilder;

/// Layer norm over the last dimension, with an epsilon of 1e-5.
pub(crate) struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
}

impl LayerNorm {
    /// Loads `weight` and `bias`, `(width)` each.
    pub(crate) fn load(vb: &VarBuilder, width: usize) -> Result<Self> {
        Ok(Self {
            weight: vb.get(&[width], "weight")?,
            bias: vb.get(&[width], "bias")?,
        })
    }

    /// Runs the norm on `(.., width)`.
    pub(crate) fn forward(&self, run: &Run, x: &Tensor) -> Result<Tensor> {
        let width = self.weight.elem_count();
        let rows = x.elem_count() / width.max(1);
        run.before(Op::LayerNorm { rows, width }, x)?;
        let x = x.contiguous()?;
        if run.on_cpu(&x) {
            let (weight, bias) = (&self.weight, &self.bias);
            return x.apply_op1_no_bwd(&CpuLayerNorm { weight, bias });
        }
        if run.on_cuda(&x) {
            return cuda::layer_norm(&x, &self.weight, &self.bias, EPS);
        }
        candle_nn::ops::layer_norm(&x, &self.weight, &self.bias, EPS)
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
            let difference = (norm.forward(&Run::default(), &x).unwrap() - expected)
                .unwrap()
                .abs()
                .unwrap();
            let largest = difference.max_all().unwrap().to_scalar::<f32>().unwrap();
            assert!(largest < 2e-5, "{rows} x {width}: {largest}");
        }
    }
}
