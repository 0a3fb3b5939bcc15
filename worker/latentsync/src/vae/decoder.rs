//! The decoder of the image autoencoder, which maps latents to pixels of eight times the height and width.

use candle_core::{Result, Tensor};

use super::blocks::{NORM_EPS, ResnetBlock2D, UNetMidBlock2D};
use crate::config::VaeConfig;
use crate::layers::{Conv2d, GroupNorm, upsample};
use crate::run::Run;
use crate::tensors::VarBuilder;

/// The decoder, which runs the block at the lowest resolution and then the blocks that double the size.
pub(super) struct Decoder {
    conv_in: Conv2d,
    mid: UNetMidBlock2D,
    blocks: Vec<UpDecoderBlock2D>,
    norm_out: GroupNorm,
    conv_out: Conv2d,
}

/// A block that doubles the height and the width, except the last one.
struct UpDecoderBlock2D {
    path: String,
    resnets: Vec<ResnetBlock2D>,
    upsampler: Option<Conv2d>,
}

impl Decoder {
    pub(super) fn load(vb: &VarBuilder, config: &VaeConfig) -> Result<Self> {
        let channels = &config.block_out_channels;
        let (first, last) = (channels[0], channels[channels.len() - 1]);
        let block_keys = vb.pp("up_blocks");
        let blocks = (0..channels.len())
            .map(|i| UpDecoderBlock2D::load(&block_keys.pp(i), config, i))
            .collect::<Result<_>>()?;
        Ok(Self {
            conv_in: Conv2d::load_3x3(&vb.pp("conv_in"), config.latent_channels, last)?,
            mid: UNetMidBlock2D::load(&vb.pp("mid_block"), config, last)?,
            blocks,
            norm_out: GroupNorm::load(&vb.pp("conv_norm_out"), config.norm_num_groups, first, NORM_EPS)?,
            conv_out: Conv2d::load_3x3(&vb.pp("conv_out"), first, config.out_channels)?,
        })
    }

    /// Decodes `latents`, `(images, 4, h, w)`, to `(images, 3, 8h, 8w)`.
    pub(super) fn forward(&self, run: &Run, latents: &Tensor) -> Result<Tensor> {
        let mut x = self.conv_in.forward(run, latents)?;
        run.put("decoder", "conv_in", &x);
        x = self.mid.forward(run, x)?;
        for block in &self.blocks {
            x = block.forward(run, x)?;
        }
        x = self.norm_out.forward_silu(run, &x, 1)?;
        self.conv_out.forward(run, &x)
    }
}

impl UpDecoderBlock2D {
    fn load(vb: &VarBuilder, config: &VaeConfig, index: usize) -> Result<Self> {
        let channels = &config.block_out_channels;
        let mirrored = |i: usize| channels[channels.len() - 1 - i];
        let output = mirrored(index);
        let block_input = mirrored(index.saturating_sub(1));
        let resnet_keys = vb.pp("resnets");
        let resnets = (0..=config.layers_per_block)
            .map(|i| {
                let input = if i == 0 { block_input } else { output };
                ResnetBlock2D::load(&resnet_keys.pp(i), config, input, output)
            })
            .collect::<Result<_>>()?;
        let upsampler = (index + 1 < channels.len())
            .then(|| Conv2d::load_3x3(&vb.pp("upsamplers").pp(0).pp("conv"), output, output))
            .transpose()?;
        Ok(Self {
            path: vb.path().to_owned(),
            resnets,
            upsampler,
        })
    }

    fn forward(&self, run: &Run, x: Tensor) -> Result<Tensor> {
        let mut x = x;
        for resnet in &self.resnets {
            x = resnet.forward(run, x)?;
        }
        if let Some(upsampler) = &self.upsampler {
            let (_, _, h, w) = x.dims4()?;
            x = upsample(run, &x, (2 * h, 2 * w))?;
            x = upsampler.forward(run, &x)?;
            run.put(&self.path, "upsamplers.0", &x);
        }
        run.put(&self.path, "", &x);
        Ok(x)
    }
}
