//! Linear layers and convolutions.

use std::ops::Range;

use candle_core::{Result, Tensor};

use super::composed;
use super::conv::CpuConv2d;
use super::linear::{CpuLinear, bands};
use super::on_own_ops;
use super::weight::Weight;
use crate::boundary::{Op, before};
use crate::slices::Convolution;
use crate::weights::Keys;

/// `x W^T + b` over the last dimension.
pub(crate) struct Linear {
    pub(super) weight: Weight,
    bias: Option<Tensor>,
}

impl Linear {
    pub(crate) fn load(keys: &Keys, input: usize, output: usize) -> Result<Self> {
        Self::shaped(keys, &[output, input])
    }

    pub(crate) fn load_no_bias(keys: &Keys, input: usize, output: usize) -> Result<Self> {
        Ok(Self {
            weight: Weight::load(keys, &[output, input], "weight")?,
            bias: None,
        })
    }

    /// A 1x1 convolution, used on `(.., channels)` instead of `(channels, h, w)`.
    pub(crate) fn load_1x1(keys: &Keys, input: usize, output: usize) -> Result<Self> {
        Self::shaped(keys, &[output, input, 1, 1])
    }

    /// A convolution over time, used on the `taps` neighbours of a token side by side.
    pub(super) fn load_taps(keys: &Keys, input: usize, output: usize, taps: usize) -> Result<Self> {
        Self::shaped(keys, &[output, input, taps])
    }

    /// With weights of a shape whose first dimension is the output's.
    fn shaped(keys: &Keys, shape: &[usize]) -> Result<Self> {
        Ok(Self {
            weight: Weight::load(keys, shape, "weight")?,
            bias: Some(keys.get(&shape[..1], "bias")?.force_contiguous()?),
        })
    }

    /// # Shapes
    /// `(.., input)` to `(.., output)`.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.apply(x, None)
    }

    /// [`Linear::forward`], and `residual`, which is shaped like the result, added.
    pub(crate) fn forward_add(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        self.apply(x, Some(residual))
    }

    fn apply(&self, x: &Tensor, residual: Option<&Tensor>) -> Result<Tensor> {
        let rows = self.announce(x, self.input())?;
        let _at_work = self.weight.at_work();
        self.compute(x, residual, &bands(rows, self.output()))
    }

    pub(super) fn input(&self) -> usize {
        self.weight.shape()[1..].iter().product()
    }

    pub(super) fn output(&self) -> usize {
        self.weight.shape()[0]
    }

    /// Tells of the layer for all rows of `x`, which is `width` wide, and gives their number.
    pub(super) fn announce(&self, x: &Tensor, width: usize) -> Result<usize> {
        let op = Op::Linear {
            rows: x.elem_count() / width.max(1),
            input: self.input(),
            output: self.output(),
        };
        before(op, x)?;
        Ok(x.elem_count() / width.max(1))
    }

    /// The layer without a word to the observer; `bands` cover the rows.
    pub(super) fn compute(
        &self,
        x: &Tensor,
        residual: Option<&Tensor>,
        bands: &[Range<usize>],
    ) -> Result<Tensor> {
        let (input, output) = (self.input(), self.output());
        let mut shape = x.dims().to_vec();
        shape.pop();
        shape.push(output);
        let rows = x.reshape(((), input))?.contiguous()?;
        if on_own_ops(x) {
            let residual = residual
                .map(|residual| residual.reshape(((), output))?.contiguous())
                .transpose()?;
            let op = CpuLinear {
                weight: &self.weight,
                bias: self.bias.as_ref(),
                residual: residual.as_ref(),
                bands,
            };
            return rows.apply_op1_no_bwd(&op)?.reshape(shape);
        }
        let weight = self.weight.tensor()?.reshape((output, input))?;
        let mut y = composed::linear(&rows, &weight)?;
        if let Some(bias) = &self.bias {
            y = y.broadcast_add(bias)?;
        }
        y = y.reshape(shape)?;
        match residual {
            Some(residual) => y + residual,
            None => Ok(y),
        }
    }
}

/// A square convolution.
pub(crate) struct Conv2d {
    weight: Weight,
    bias: Tensor,
    stride: usize,
    padding: usize,
}

impl Conv2d {
    /// A 3x3 convolution with stride 1 that keeps the size.
    pub(crate) fn load_3x3(keys: &Keys, input: usize, output: usize) -> Result<Self> {
        Self::load(keys, input, output, 3, 1, 1)
    }

    pub(crate) fn load(
        keys: &Keys,
        input: usize,
        output: usize,
        kernel: usize,
        stride: usize,
        padding: usize,
    ) -> Result<Self> {
        Ok(Self {
            weight: Weight::load(keys, &[output, input, kernel, kernel], "weight")?,
            bias: keys.get(&[output], "bias")?.force_contiguous()?,
            stride,
            padding,
        })
    }

    /// # Shapes
    /// `(images, input, h, w)` to `(images, output, h', w')`.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.apply(x, None, None)
    }

    /// [`Conv2d::forward`], and `residual`, which is shaped like the result, added.
    pub(crate) fn forward_add(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        self.apply(x, None, Some(residual))
    }

    /// [`Conv2d::forward`] with one more addend a channel, `(samples, output)`, for each sample's images.
    pub(crate) fn forward_shifted(&self, x: &Tensor, shift: &Tensor) -> Result<Tensor> {
        self.apply(x, Some(shift), None)
    }

    fn apply(&self, x: &Tensor, shift: Option<&Tensor>, residual: Option<&Tensor>) -> Result<Tensor> {
        let (images, input, height, width) = x.dims4()?;
        let op = Op::Conv2d {
            sizes: Convolution {
                images,
                input,
                output: self.weight.shape()[0],
                height: height / self.stride,
                width: width / self.stride,
                kernel: self.weight.shape()[2],
            },
            stride: self.stride,
        };
        before(op, x)?;
        let _at_work = self.weight.at_work();
        if on_own_ops(x) {
            let residual = residual.map(Tensor::contiguous).transpose()?;
            let bias = match shift {
                Some(shift) => shift.broadcast_add(&self.bias)?,
                None => self.bias.clone(),
            };
            let op = CpuConv2d {
                weight: &self.weight,
                bias: &bias,
                residual: residual.as_ref(),
                stride: self.stride,
                padding: self.padding,
            };
            return x.contiguous()?.apply_op1_no_bwd(&op);
        }
        let mut y = composed::conv2d(x, &self.weight.tensor()?, &self.bias, self.stride, self.padding)?;
        if let Some(shift) = shift {
            let (images, channels, h, w) = y.dims4()?;
            let samples = shift.dim(0)?;
            y = y
                .reshape((samples, images / samples, channels, h * w))?
                .broadcast_add(&shift.reshape((samples, 1, channels, 1))?)?
                .reshape((images, channels, h, w))?;
        }
        match residual {
            Some(residual) => y + residual,
            None => Ok(y),
        }
    }
}
