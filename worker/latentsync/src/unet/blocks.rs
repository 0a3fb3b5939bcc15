//! The down, middle and up blocks of the UNet. A layer of a block is a `ResNet` block, a spatial transformer
//! if the block has cross-attention, and a motion module if the configuration has one at this resolution.
//! Images are `(batch x frames, channels, h, w)` throughout.

use candle_core::{Result, Tensor, bail};

use super::attention::Transformer3DModel;
use super::context::ForwardContext;
use super::motion::MotionModule;
use super::resnet::{Downsample3D, ResnetBlock3D, Upsample3D};
use crate::config::{LayerModules, UNetConfig};
use crate::layers::join_channels;
use crate::tensors::VarBuilder;

/// One layer of a down or an up block.
struct BlockLayer {
    resnet: ResnetBlock3D,
    attention: Option<Transformer3DModel>,
    motion: Option<MotionModule>,
}

impl BlockLayer {
    fn load(
        vb: &VarBuilder,
        config: &UNetConfig,
        index: usize,
        (input, output): (usize, usize),
        modules: LayerModules,
    ) -> Result<Self> {
        let attention = modules
            .attention
            .then(|| Transformer3DModel::load(&vb.pp("attentions").pp(index), config, output))
            .transpose()?;
        let motion = modules
            .motion
            .then(|| {
                MotionModule::load(
                    &vb.pp("motion_modules").pp(index),
                    &config.motion_module_kwargs,
                    output,
                )
            })
            .transpose()?;
        Ok(Self {
            resnet: ResnetBlock3D::load(&vb.pp("resnets").pp(index), config, input, output)?,
            attention,
            motion,
        })
    }

    fn forward(&self, x: Tensor, context: &ForwardContext) -> Result<Tensor> {
        let mut x = self.resnet.forward(x, context)?;
        if let Some(attention) = &self.attention {
            x = attention.forward(&x, context)?;
        }
        if let Some(motion) = &self.motion {
            x = motion.forward(&x, context)?;
        }
        Ok(x)
    }
}

/// A block that halves the height and the width, except the last one. It is a `CrossAttnDownBlock3D` or a
/// `DownBlock3D` of the reference.
pub(super) struct DownBlock3D {
    path: String,
    layers: Vec<BlockLayer>,
    downsampler: Option<Downsample3D>,
}

impl DownBlock3D {
    /// Loads the block number `index`.
    pub(super) fn load(vb: &VarBuilder, config: &UNetConfig, index: usize) -> Result<Self> {
        let channels = &config.block_out_channels;
        let output = channels[index];
        let block_input = if index == 0 { output } else { channels[index - 1] };
        let modules = config.down_modules(index);
        let layers = (0..config.layers_per_block)
            .map(|i| {
                let input = if i == 0 { block_input } else { output };
                BlockLayer::load(vb, config, i, (input, output), modules)
            })
            .collect::<Result<_>>()?;
        let downsampler = (index + 1 < channels.len())
            .then(|| Downsample3D::load(&vb.pp("downsamplers").pp(0), output))
            .transpose()?;
        Ok(Self {
            path: vb.path().to_owned(),
            layers,
            downsampler,
        })
    }

    /// Runs the block and pushes the result of each layer and of the downsampler onto `skips`.
    pub(super) fn forward(
        &self,
        x: Tensor,
        skips: &mut Vec<Tensor>,
        context: &ForwardContext,
    ) -> Result<Tensor> {
        let mut x = x;
        for layer in &self.layers {
            x = layer.forward(x, context)?;
            skips.push(x.clone());
        }
        if let Some(downsampler) = &self.downsampler {
            x = downsampler.forward(&x, context)?;
            skips.push(x.clone());
        }
        context.run.put(&self.path, "", &x);
        Ok(x)
    }
}

/// The block at the lowest resolution.
pub(super) struct UNetMidBlock3DCrossAttn {
    path: String,
    first: ResnetBlock3D,
    attention: Transformer3DModel,
    motion: Option<MotionModule>,
    second: ResnetBlock3D,
}

impl UNetMidBlock3DCrossAttn {
    pub(super) fn load(vb: &VarBuilder, config: &UNetConfig, channels: usize) -> Result<Self> {
        let motion = (config.use_motion_module && config.motion_module_mid_block)
            .then(|| {
                MotionModule::load(
                    &vb.pp("motion_modules").pp(0),
                    &config.motion_module_kwargs,
                    channels,
                )
            })
            .transpose()?;
        let resnets = vb.pp("resnets");
        Ok(Self {
            path: vb.path().to_owned(),
            first: ResnetBlock3D::load(&resnets.pp(0), config, channels, channels)?,
            attention: Transformer3DModel::load(&vb.pp("attentions").pp(0), config, channels)?,
            motion,
            second: ResnetBlock3D::load(&resnets.pp(1), config, channels, channels)?,
        })
    }

    pub(super) fn forward(&self, x: Tensor, context: &ForwardContext) -> Result<Tensor> {
        let mut x = self.first.forward(x, context)?;
        x = self.attention.forward(&x, context)?;
        if let Some(motion) = &self.motion {
            x = motion.forward(&x, context)?;
        }
        x = self.second.forward(x, context)?;
        context.run.put(&self.path, "", &x);
        Ok(x)
    }
}

/// A block that doubles the height and the width, except the last one. It is a `CrossAttnUpBlock3D` or an
/// `UpBlock3D` of the reference.
pub(super) struct UpBlock3D {
    path: String,
    layers: Vec<BlockLayer>,
    upsampler: Option<Upsample3D>,
}

impl UpBlock3D {
    /// Loads the block number `index`.
    pub(super) fn load(vb: &VarBuilder, config: &UNetConfig, index: usize) -> Result<Self> {
        let channels = &config.block_out_channels;
        let mirrored = |i: usize| channels[channels.len() - 1 - i];
        let output = mirrored(index);
        let block_input = mirrored(index.saturating_sub(1));
        let last_skip = mirrored((index + 1).min(channels.len() - 1));
        let modules = config.up_modules(index);
        let count = config.layers_per_block + 1;
        let layers = (0..count)
            .map(|i| {
                let skip = if i + 1 == count { last_skip } else { output };
                let hidden = if i == 0 { block_input } else { output };
                BlockLayer::load(vb, config, i, (hidden + skip, output), modules)
            })
            .collect::<Result<_>>()?;
        let upsampler = (index + 1 < channels.len())
            .then(|| Upsample3D::load(&vb.pp("upsamplers").pp(0), output))
            .transpose()?;
        Ok(Self {
            path: vb.path().to_owned(),
            layers,
            upsampler,
        })
    }

    /// Runs the block; each layer pops one tensor from `skips` and concatenates it with its input.
    pub(super) fn forward(
        &self,
        x: Tensor,
        skips: &mut Vec<Tensor>,
        context: &ForwardContext,
    ) -> Result<Tensor> {
        let mut x = x;
        for layer in &self.layers {
            let Some(skip) = skips.pop() else {
                bail!("{}: no skip left to join", self.path);
            };
            x = join_channels(context.run, &x, &skip)?;
            drop(skip);
            x = layer.forward(x, context)?;
        }
        if let Some(upsampler) = &self.upsampler {
            let Some(next) = skips.last() else {
                bail!("{}: no skip left to take the size of", self.path);
            };
            let (_, _, h, w) = next.dims4()?;
            x = upsampler.forward(x, (h, w), context)?;
        }
        context.run.put(&self.path, "", &x);
        Ok(x)
    }
}
