//! Linear layers, convolutions and the gated feed-forward.

use candle_core::{DType, Result, Tensor};

use super::composed;
use super::conv::CpuConv2d;
use super::gelu::geglu;
use super::linear::CpuLinear;
use super::weight::Weight;
use crate::latentsync::trace::Trace;
use crate::latentsync::weights::Keys;

/// `x W^T + b` over the last dimension.
pub(in crate::latentsync) struct Linear {
    weight: Weight,
    bias: Option<Tensor>,
}

impl Linear {
    pub(in crate::latentsync) fn load(keys: &Keys, input: usize, output: usize) -> Result<Self> {
        Ok(Self {
            weight: Weight::load(keys, &[output, input], "weight")?,
            bias: Some(keys.get(&[output], "bias")?.force_contiguous()?),
        })
    }

    pub(in crate::latentsync) fn load_no_bias(keys: &Keys, input: usize, output: usize) -> Result<Self> {
        Ok(Self {
            weight: Weight::load(keys, &[output, input], "weight")?,
            bias: None,
        })
    }

    /// A 1x1 convolution, used on `(.., channels)` instead of `(channels, h, w)`.
    pub(in crate::latentsync) fn load_1x1(keys: &Keys, input: usize, output: usize) -> Result<Self> {
        Ok(Self {
            weight: Weight::load(keys, &[output, input, 1, 1], "weight")?,
            bias: Some(keys.get(&[output], "bias")?.force_contiguous()?),
        })
    }

    /// A convolution over time, used on the `taps` neighbours of a token side by side.
    pub(super) fn load_taps(keys: &Keys, input: usize, output: usize, taps: usize) -> Result<Self> {
        Ok(Self {
            weight: Weight::load(keys, &[output, input, taps], "weight")?,
            bias: Some(keys.get(&[output], "bias")?.force_contiguous()?),
        })
    }

    /// # Shapes
    /// `(.., input)` to `(.., output)`.
    pub(in crate::latentsync) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.apply(x, None)
    }

    /// [`Linear::forward`], and `residual`, which is shaped like the result, added.
    pub(in crate::latentsync) fn forward_add(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        self.apply(x, Some(residual))
    }

    fn apply(&self, x: &Tensor, residual: Option<&Tensor>) -> Result<Tensor> {
        let mut shape = x.dims().to_vec();
        let input = shape.pop().unwrap_or(1);
        let output = self.weight.shape()[0];
        shape.push(output);
        let rows = x.reshape(((), input))?.contiguous()?;
        if x.device().is_cpu() && x.dtype() == DType::F32 {
            let residual = residual
                .map(|residual| residual.reshape(((), output))?.contiguous())
                .transpose()?;
            let op = CpuLinear {
                weight: &self.weight,
                bias: self.bias.as_ref(),
                residual: residual.as_ref(),
            };
            return rows.apply_op1_no_bwd(&op)?.reshape(shape);
        }
        let weight = self.weight.tensor()?.reshape((output, input))?;
        let mut y = composed::linear(&rows, &weight)?;
        if let Some(bias) = &self.bias {
            y = y.broadcast_add(bias)?;
        }
        let y = y.reshape(shape)?;
        match residual {
            Some(residual) => y + residual,
            None => Ok(y),
        }
    }
}

/// A square convolution.
pub(in crate::latentsync) struct Conv2d {
    weight: Weight,
    bias: Tensor,
    stride: usize,
    padding: usize,
}

impl Conv2d {
    /// A 3x3 convolution with stride 1 that keeps the size.
    pub(in crate::latentsync) fn load_3x3(keys: &Keys, input: usize, output: usize) -> Result<Self> {
        Self::load(keys, input, output, 3, 1, 1)
    }

    pub(in crate::latentsync) fn load(
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
    pub(in crate::latentsync) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.apply(x, None, None)
    }

    /// [`Conv2d::forward`], and `residual`, which is shaped like the result, added.
    pub(in crate::latentsync) fn forward_add(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        self.apply(x, None, Some(residual))
    }

    /// [`Conv2d::forward`] with one more addend a channel, `(samples, output)`, for each sample's images.
    pub(in crate::latentsync) fn forward_shifted(&self, x: &Tensor, shift: &Tensor) -> Result<Tensor> {
        self.apply(x, Some(shift), None)
    }

    fn apply(&self, x: &Tensor, shift: Option<&Tensor>, residual: Option<&Tensor>) -> Result<Tensor> {
        let bias = match shift {
            Some(shift) => shift.broadcast_add(&self.bias)?,
            None => self.bias.clone(),
        };
        if x.device().is_cpu() && x.dtype() == DType::F32 {
            let residual = residual.map(Tensor::contiguous).transpose()?;
            let op = CpuConv2d {
                weight: &self.weight,
                bias: &bias,
                residual: residual.as_ref(),
                stride: self.stride,
                padding: self.padding,
            };
            return x.contiguous()?.apply_op1_no_bwd(&op);
        }
        let mut y = composed::conv2d(x, self.weight.tensor()?, &self.bias, self.stride, self.padding)?;
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

/// GEGLU feed-forward: `net.0.proj` gives value and gate, `net.2` goes back. The exact (erf) GELU.
pub(in crate::latentsync) struct FeedForward {
    path: String,
    proj: Linear,
    out: Linear,
}

impl FeedForward {
    pub(in crate::latentsync) fn load(keys: &Keys, width: usize) -> Result<Self> {
        let net = keys.pp("net");
        Ok(Self {
            path: keys.path().to_owned(),
            proj: Linear::load(&net.pp(0).pp("proj"), width, 8 * width)?,
            out: Linear::load(&net.pp(2), 4 * width, width)?,
        })
    }

    /// The feed-forward of `x`, and `residual` added.
    pub(in crate::latentsync) fn forward_add(
        &self,
        x: &Tensor,
        residual: &Tensor,
        trace: &Trace,
    ) -> Result<Tensor> {
        let projected = self.proj.forward(x)?;
        trace.put(&self.path, "net.0.proj", &projected);
        let gated = geglu(&projected)?;
        drop(projected);
        trace.put(&self.path, "net.0", &gated);
        if !trace.is_on() {
            return self.out.forward_add(&gated, residual);
        }
        let y = self.out.forward(&gated)?;
        trace.put(&self.path, "net.2", &y);
        trace.put(&self.path, "", &y);
        y + residual
    }
}
