//! The `ResNet` block of the UNet, whose norms take their statistics over all frames of a sample, and the
//! downsampling and upsampling at the end of a block. [`blocks`](super::blocks) calls them.

use candle_core::{Result, Tensor};

use super::context::ForwardContext;
use crate::config::UNetConfig;
use crate::layers::{Conv2d, GroupNorm, Linear, upsample};
use crate::tensors::VarBuilder;

/// Two convolutions with norms, shifted by the timestep embedding, and a residual.
pub(super) struct ResnetBlock3D {
    path: String,
    norm1: GroupNorm,
    conv1: Conv2d,
    time_emb_proj: Linear,
    norm2: GroupNorm,
    conv2: Conv2d,
    shortcut: Option<Conv2d>,
}

impl ResnetBlock3D {
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

    /// Runs the block on `x`, `(batch x frames, channels, h, w)`.
    pub(super) fn forward(&self, x: Tensor, context: &ForwardContext) -> Result<Tensor> {
        let frames = context.frames;
        let shift = self.time_emb_proj.forward(context.run, &context.temb.silu()?)?;
        context.run.put(&self.path, "time_emb_proj", &shift);
        let mut hidden = self.norm1.forward_silu(context.run, &x, frames)?;
        // The shortcut runs before the convolutions, so that the input can be dropped: with its skip
        // connection it is the largest tensor of all.
        let residual = match &self.shortcut {
            Some(shortcut) => {
                let residual = shortcut.forward(context.run, &x)?;
                context.run.put(&self.path, "conv_shortcut", &residual);
                drop(x);
                residual
            }
            None => x,
        };
        // The shift has one value for each channel, which is the same in all frames of a sample.
        hidden = self.conv1.forward_shifted(context.run, &hidden, &shift)?;
        context
            .run
            .put_derived(&self.path, "conv1", || without_shift(&hidden, &shift))?;
        hidden = self.norm2.forward_silu(context.run, &hidden, frames)?;
        let y = self.conv2.forward_add(context.run, &hidden, &residual)?;
        context.run.put_derived(&self.path, "conv2", || &y - &residual)?;
        context.run.put(&self.path, "", &y);
        Ok(y)
    }
}

/// Subtracts from `x`, `(images, channels, h, w)`, the addend of every channel, `(samples, channels)`.
fn without_shift(x: &Tensor, shift: &Tensor) -> Result<Tensor> {
    let (images, channels, h, w) = x.dims4()?;
    let samples = shift.dim(0)?;
    x.reshape((samples, images / samples, channels, h * w))?
        .broadcast_sub(&shift.reshape((samples, 1, channels, 1))?)?
        .reshape((images, channels, h, w))
}

/// Halves the height and the width with a strided convolution.
pub(super) struct Downsample3D {
    path: String,
    conv: Conv2d,
}

impl Downsample3D {
    pub(super) fn load(vb: &VarBuilder, channels: usize) -> Result<Self> {
        Ok(Self {
            path: vb.path().to_owned(),
            conv: Conv2d::load(&vb.pp("conv"), channels, channels, 3, 2, 1)?,
        })
    }

    pub(super) fn forward(&self, x: &Tensor, context: &ForwardContext) -> Result<Tensor> {
        let y = self.conv.forward(context.run, x)?;
        context.run.put(&self.path, "conv", &y);
        context.run.put(&self.path, "", &y);
        Ok(y)
    }
}

/// Enlarges images by nearest-neighbour upsampling, followed by a convolution.
pub(super) struct Upsample3D {
    path: String,
    conv: Conv2d,
}

impl Upsample3D {
    pub(super) fn load(vb: &VarBuilder, channels: usize) -> Result<Self> {
        Ok(Self {
            path: vb.path().to_owned(),
            conv: Conv2d::load_3x3(&vb.pp("conv"), channels, channels)?,
        })
    }

    /// Upsamples to `(h, w)`, the size of the skip connection that the next block concatenates.
    pub(super) fn forward(
        &self,
        x: Tensor,
        (h, w): (usize, usize),
        context: &ForwardContext,
    ) -> Result<Tensor> {
        let upsampled = upsample(context.run, &x, (h, w))?;
        drop(x);
        let y = self.conv.forward(context.run, &upsampled)?;
        context.run.put(&self.path, "", &y);
        Ok(y)
    }
}
