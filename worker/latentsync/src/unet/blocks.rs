//! Down, middle and up blocks. A layer is: `ResNet` block, spatial transformer (where the block has one),
//! motion module.

use candle_core::{Result, Tensor, bail};

use super::attention::SpatialTransformer;
use super::context::Context;
use super::motion::MotionModule;
use super::resnet::{Downsampler, ResnetBlock, Upsampler};
use crate::config::UNetConfig;
use crate::layers::join_channels;
use crate::tensors::VarBuilder;

struct Layer {
    resnet: ResnetBlock,
    attention: Option<SpatialTransformer>,
    motion: Option<MotionModule>,
}

/// What a layer is made of.
#[derive(Clone, Copy)]
struct Parts {
    attention: bool,
    motion: bool,
}

impl Layer {
    fn load(
        vb: &VarBuilder,
        config: &UNetConfig,
        index: usize,
        (input, output): (usize, usize),
        parts: Parts,
    ) -> Result<Self> {
        let attention = parts
            .attention
            .then(|| SpatialTransformer::load(&vb.pp("attentions").pp(index), config, output))
            .transpose()?;
        let motion = parts
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
            resnet: ResnetBlock::load(&vb.pp("resnets").pp(index), config, input, output)?,
            attention,
            motion,
        })
    }

    fn forward(&self, x: Tensor, context: &Context) -> Result<Tensor> {
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

pub(super) struct DownBlock {
    path: String,
    layers: Vec<Layer>,
    downsampler: Option<Downsampler>,
}

impl DownBlock {
    pub(super) fn load(vb: &VarBuilder, config: &UNetConfig, index: usize) -> Result<Self> {
        let channels = &config.block_out_channels;
        let output = channels[index];
        let block_input = if index == 0 { output } else { channels[index - 1] };
        let parts = Parts {
            attention: config.down_block_types[index] == "CrossAttnDownBlock3D",
            motion: config.has_motion(1 << index, false),
        };
        let layers = (0..config.layers_per_block)
            .map(|i| {
                let input = if i == 0 { block_input } else { output };
                Layer::load(vb, config, i, (input, output), parts)
            })
            .collect::<Result<_>>()?;
        let downsampler = (index + 1 < channels.len())
            .then(|| Downsampler::load(&vb.pp("downsamplers").pp(0), output))
            .transpose()?;
        Ok(Self {
            path: vb.path().to_owned(),
            layers,
            downsampler,
        })
    }

    pub(super) fn forward(&self, x: Tensor, skips: &mut Vec<Tensor>, context: &Context) -> Result<Tensor> {
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

pub(super) struct MidBlock {
    path: String,
    first: ResnetBlock,
    attention: SpatialTransformer,
    motion: Option<MotionModule>,
    second: ResnetBlock,
}

impl MidBlock {
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
            first: ResnetBlock::load(&resnets.pp(0), config, channels, channels)?,
            attention: SpatialTransformer::load(&vb.pp("attentions").pp(0), config, channels)?,
            motion,
            second: ResnetBlock::load(&resnets.pp(1), config, channels, channels)?,
        })
    }

    pub(super) fn forward(&self, x: Tensor, context: &Context) -> Result<Tensor> {
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

pub(super) struct UpBlock {
    path: String,
    layers: Vec<Layer>,
    upsampler: Option<Upsampler>,
}

impl UpBlock {
    pub(super) fn load(vb: &VarBuilder, config: &UNetConfig, index: usize) -> Result<Self> {
        let channels = &config.block_out_channels;
        let mirrored = |i: usize| channels[channels.len() - 1 - i];
        let output = mirrored(index);
        let block_input = mirrored(index.saturating_sub(1));
        let last_skip = mirrored((index + 1).min(channels.len() - 1));
        let parts = Parts {
            attention: config.up_block_types[index] == "CrossAttnUpBlock3D",
            motion: config.has_motion(1 << (channels.len() - 1 - index), true),
        };
        let count = config.layers_per_block + 1;
        let layers = (0..count)
            .map(|i| {
                let skip = if i + 1 == count { last_skip } else { output };
                let hidden = if i == 0 { block_input } else { output };
                Layer::load(vb, config, i, (hidden + skip, output), parts)
            })
            .collect::<Result<_>>()?;
        let upsampler = (index + 1 < channels.len())
            .then(|| Upsampler::load(&vb.pp("upsamplers").pp(0), output))
            .transpose()?;
        Ok(Self {
            path: vb.path().to_owned(),
            layers,
            upsampler,
        })
    }

    pub(super) fn forward(&self, x: Tensor, skips: &mut Vec<Tensor>, context: &Context) -> Result<Tensor> {
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
