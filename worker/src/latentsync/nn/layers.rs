//! Linear layers, convolutions, layer norm and the gated feed-forward.

use candle_core::{DType, Result, Tensor};

use super::composed;
use super::conv::CpuConv2d;
use super::gelu::geglu;
use super::linear::CpuLinear;
use crate::latentsync::trace::Trace;
use crate::latentsync::weights::Keys;

/// `x W^T + b` over the last dimension.
pub(in crate::latentsync) struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    pub(in crate::latentsync) fn load(keys: &Keys, input: usize, output: usize) -> Result<Self> {
        Ok(Self {
            weight: keys.get(&[output, input], "weight")?,
            bias: Some(keys.get(&[output], "bias")?),
        })
    }

    pub(in crate::latentsync) fn load_no_bias(keys: &Keys, input: usize, output: usize) -> Result<Self> {
        Ok(Self {
            weight: keys.get(&[output, input], "weight")?,
            bias: None,
        })
    }

    /// A 1x1 convolution, used on `(.., channels)` instead of `(channels, h, w)`.
    pub(in crate::latentsync) fn load_1x1(keys: &Keys, input: usize, output: usize) -> Result<Self> {
        let weight = keys.get(&[output, input, 1, 1], "weight")?;
        Ok(Self {
            weight: weight.reshape((output, input))?,
            bias: Some(keys.get(&[output], "bias")?),
        })
    }

    /// # Shapes
    /// `(.., input)` to `(.., output)`.
    pub(in crate::latentsync) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut shape = x.dims().to_vec();
        let input = shape.pop().unwrap_or(1);
        shape.push(self.weight.dim(0)?);
        let rows = x.reshape(((), input))?;
        let y = if x.device().is_cpu() && x.dtype() == DType::F32 {
            rows.contiguous()?.apply_op2_no_bwd(&self.weight, &CpuLinear)?
        } else {
            rows.matmul(&self.weight.t()?)?
        };
        let y = match &self.bias {
            Some(bias) => y.broadcast_add(bias)?,
            None => y,
        };
        y.reshape(shape)
    }
}

/// A square convolution.
pub(in crate::latentsync) struct Conv2d {
    weight: Tensor,
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
            weight: keys.get(&[output, input, kernel, kernel], "weight")?,
            bias: keys.get(&[output], "bias")?.force_contiguous()?,
            stride,
            padding,
        })
    }

    /// # Shapes
    /// `(images, input, h, w)` to `(images, output, h', w')`.
    pub(in crate::latentsync) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if x.device().is_cpu() && x.dtype() == DType::F32 {
            let op = CpuConv2d {
                stride: self.stride,
                padding: self.padding,
            };
            return x.contiguous()?.apply_op3_no_bwd(&self.weight, &self.bias, &op);
        }
        composed::conv2d(x, &self.weight, &self.bias, self.stride, self.padding)
    }
}

/// Norm over the last dimension.
pub(in crate::latentsync) struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
}

impl LayerNorm {
    const EPS: f32 = 1e-5;

    pub(in crate::latentsync) fn load(keys: &Keys, width: usize) -> Result<Self> {
        Ok(Self {
            weight: keys.get(&[width], "weight")?,
            bias: keys.get(&[width], "bias")?,
        })
    }

    pub(in crate::latentsync) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        candle_nn::ops::layer_norm(&x.contiguous()?, &self.weight, &self.bias, Self::EPS)
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

    pub(in crate::latentsync) fn forward(&self, x: &Tensor, trace: &Trace) -> Result<Tensor> {
        let projected = self.proj.forward(x)?;
        trace.put(&self.path, "net.0.proj", &projected);
        let gated = geglu(&projected)?;
        drop(projected);
        trace.put(&self.path, "net.0", &gated);
        let y = self.out.forward(&gated)?;
        trace.put(&self.path, "net.2", &y);
        trace.put(&self.path, "", &y);
        Ok(y)
    }
}
