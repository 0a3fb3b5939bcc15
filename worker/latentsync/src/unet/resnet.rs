//! The residual block, whose norms take their statistics over all frames, and the two samplers.

use candle_core::{Result, Tensor};

use super::context::Context;
use crate::config::UNetConfig;
use crate::layers::{Conv2d, GroupNorm, Linear, upsample};
use crate::tensors::VarBuilder;

pub(super) struct ResnetBlock {
    path: String,
    norm1: GroupNorm,
    conv1: Conv2d,
    time_emb_proj: Linear,
    norm2: GroupNorm,
    conv2: Conv2d,
    shortcut: Option<Conv2d>,
}

impl ResnetBlock {
    pub(super) fn load(vb: &VarBuilder, config: &UNetConfig, input: usize, output: usize) -> Result<Self> {
        let norm = |name: &str, channels| {
            GroupNorm::load(&vb.pp(name), config.norm_num_groups, channels, config.norm_eps)
        };
        let shortcut = (input != output)
            .then(|| Conv2d::load(&vb.pp("conv_shortcut"), input, output, 1, 1, 0))
            .transpose()?;
        Ok(Self {
            path: vb.path().to_owned(),
            norm1: norm("norm1", input)?,
            conv1: Conv2d::load_3x3(&vb.pp("conv1"), input, output)?,
            time_emb_proj: Linear::load(&vb.pp("time_emb_proj"), 4 * config.block_out_channels[0], output)?,
            norm2: norm("norm2", output)?,
            conv2: Conv2d::load_3x3(&vb.pp("conv2"), output, output)?,
            shortcut,
        })
    }

    pub(super) fn forward(&self, x: Tensor, context: &Context) -> Result<Tensor> {
        let frames = context.frames;
        let time = self.time_emb_proj.forward(context.run, &context.time.silu()?)?;
        context.run.put(&self.path, "time_emb_proj", &time);
        let mut hidden = self.norm1.forward_silu(context.run, &x, frames)?;
        // Now, because it lets go of the input, which with its skip is the largest tensor of all.
        let residual = match &self.shortcut {
            Some(shortcut) => {
                let residual = shortcut.forward(context.run, &x)?;
                context.run.put(&self.path, "conv_shortcut", &residual);
                drop(x);
                residual
            }
            None => x,
        };
        // One value a channel, the same in all frames of a sample.
        hidden = self.conv1.forward_shifted(context.run, &hidden, &time)?;
        context
            .run
            .put_derived(&self.path, "conv1", || without_shift(&hidden, &time))?;
        hidden = self.norm2.forward_silu(context.run, &hidden, frames)?;
        let y = self.conv2.forward_add(context.run, &hidden, &residual)?;
        context.run.put_derived(&self.path, "conv2", || &y - &residual)?;
        context.run.put(&self.path, "", &y);
        Ok(y)
    }
}

/// `x`, `(images, channels, h, w)`, without the addend of every channel, `(samples, channels)`.
fn without_shift(x: &Tensor, shift: &Tensor) -> Result<Tensor> {
    let (images, channels, h, w) = x.dims4()?;
    let samples = shift.dim(0)?;
    x.reshape((samples, images / samples, channels, h * w))?
        .broadcast_sub(&shift.reshape((samples, 1, channels, 1))?)?
        .reshape((images, channels, h, w))
}

/// Halves the size with a strided convolution.
pub(super) struct Downsampler {
    path: String,
    conv: Conv2d,
}

impl Downsampler {
    pub(super) fn load(vb: &VarBuilder, channels: usize) -> Result<Self> {
        Ok(Self {
            path: vb.path().to_owned(),
            conv: Conv2d::load(&vb.pp("conv"), channels, channels, 3, 2, 1)?,
        })
    }

    pub(super) fn forward(&self, x: &Tensor, context: &Context) -> Result<Tensor> {
        let y = self.conv.forward(context.run, x)?;
        context.run.put(&self.path, "conv", &y);
        context.run.put(&self.path, "", &y);
        Ok(y)
    }
}

/// Nearest-neighbour upsampling and a convolution.
pub(super) struct Upsampler {
    path: String,
    conv: Conv2d,
}

impl Upsampler {
    pub(super) fn load(vb: &VarBuilder, channels: usize) -> Result<Self> {
        Ok(Self {
            path: vb.path().to_owned(),
            conv: Conv2d::load_3x3(&vb.pp("conv"), channels, channels)?,
        })
    }

    /// Upsamples to `(h, w)`, the size of the skip that is joined next.
    pub(super) fn forward(&self, x: Tensor, (h, w): (usize, usize), context: &Context) -> Result<Tensor> {
        let upsampled = upsample(context.run, &x, (h, w))?;
        drop(x);
        let y = self.conv.forward(context.run, &upsampled)?;
        context.run.put(&self.path, "", &y);
        Ok(y)
    }
}
