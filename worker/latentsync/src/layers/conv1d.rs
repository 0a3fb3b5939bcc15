//! Convolution over time with a kernel of three: a linear layer over neighbouring tokens. Whisper's encoder
//! begins with two.

use candle_core::{Result, Tensor};

use super::linear::Linear;
use crate::kernels::cpu::{CpuNeighbours, TAPS};
use crate::run::Run;
use crate::tensors::VarBuilder;

/// A convolution over time with a kernel of three and a padding of one token at both ends.
pub(crate) struct Conv1d {
    linear: Linear,
    stride: usize,
}

impl Conv1d {
    /// Loads `weight`, `(output, input, 3)`, and `bias`, `(output)`.
    pub(crate) fn load(vb: &VarBuilder, input: usize, output: usize, stride: usize) -> Result<Self> {
        Ok(Self {
            linear: Linear::load_taps(vb, input, output, TAPS)?,
            stride,
        })
    }

    /// Runs the convolution.
    ///
    /// # Shapes
    /// `(tokens, input)` to `(tokens / stride, output)`, rounded up.
    pub(crate) fn forward(&self, run: &Run, x: &Tensor) -> Result<Tensor> {
        self.linear.forward(run, &neighbours(run, x, self.stride)?)
    }
}

/// Returns every `stride`th token with its neighbours, `(tokens / stride, input x 3)`; the three values of a
/// channel are side by side.
fn neighbours(run: &Run, x: &Tensor, stride: usize) -> Result<Tensor> {
    run.before_copy(x.dim(0)?.div_ceil(stride) * x.dim(1)? * TAPS, x)?;
    if run.on_cpu(x) {
        return x.contiguous()?.apply_op1_no_bwd(&CpuNeighbours { stride });
    }
    let (tokens, input) = x.dims2()?;
    let count = tokens.div_ceil(stride);
    let padded = x.pad_with_zeros(0, 1, 1)?;
    let taps = (0..TAPS)
        .map(|tap| {
            let indices: Vec<u32> = (0..count)
                .filter_map(|i| u32::try_from(i * stride + tap).ok())
                .collect();
            padded.index_select(&Tensor::from_vec(indices, count, x.device())?, 0)
        })
        .collect::<Result<Vec<_>>>()?;
    Tensor::stack(&taps, 2)?.reshape((count, input * TAPS))
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    #[test]
    fn neighbours_times_weights_are_a_convolution() {
        for (tokens, input, output, stride) in [(1, 1, 1, 1), (7, 3, 4, 1), (8, 5, 2, 2), (9, 2, 3, 2)] {
            let tensor = |shape: (usize, usize), step: usize| {
                let values: Vec<f32> = (0..shape.0 * shape.1)
                    .map(|i| ((i * step % 101) as f32 - 50.0) / 64.0)
                    .collect();
                Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
            };
            let (x, weight) = (tensor((tokens, input), 37), tensor((output, input * TAPS), 53));
            let expected = x
                .t()
                .unwrap()
                .unsqueeze(0)
                .unwrap()
                .conv1d(&weight.reshape((output, input, TAPS)).unwrap(), 1, stride, 1, 1)
                .unwrap();
            let expected = expected.squeeze(0).unwrap().t().unwrap();
            // The values are multiples of 1/64 below 1, which f16 represents exactly.
            for dtype in [DType::F32, DType::F16] {
                let near = neighbours(&Run::default(), &x.to_dtype(dtype).unwrap(), stride).unwrap();
                let near = near.to_dtype(DType::F32).unwrap();
                let ours = near.matmul(&weight.t().unwrap()).unwrap();
                assert_eq!(ours.dims(), expected.dims());
                let difference = (ours - &expected).unwrap().abs().unwrap().max_all().unwrap();
                let difference = difference.to_scalar::<f32>().unwrap();
                assert!(
                    difference <= 1e-6,
                    "{tokens} x {input}, stride {stride}: {difference}"
                );
            }
        }
    }
}
