//! The encoder of the image autoencoder, which maps pixels to moments of an eighth of the height and width.

use candle_core::{Result, Tensor};

use super::blocks::{NORM_EPS, ResnetBlock2D, UNetMidBlock2D};
use crate::config::VaeConfig;
use crate::layers::{Conv2d, GroupNorm, pad_right_and_below};
use crate::run::Run;
use crate::tensors::VarBuilder;

/// The encoder, which runs the blocks that halve the size and then the block at the lowest resolution.
pub(super) struct Encoder {
    conv_in: Conv2d,
    blocks: Vec<DownEncoderBlock2D>,
    mid: UNetMidBlock2D,
    norm_out: GroupNorm,
    conv_out: Conv2d,
}

/// A block that halves the height and the width, except the last one.
struct DownEncoderBlock2D {
    path: String,
    resnets: Vec<ResnetBlock2D>,
    downsampler: Option<Conv2d>,
}

impl Encoder {
    pub(super) fn load(vb: &VarBuilder, config: &VaeConfig) -> Result<Self> {
        let channels = &config.block_out_channels;
        let last = channels[channels.len() - 1];
        let block_keys = vb.pp("down_blocks");
        let blocks = (0..channels.len())
            .map(|i| DownEncoderBlock2D::load(&block_keys.pp(i), config, i))
            .collect::<Result<_>>()?;
        Ok(Self {
            conv_in: Conv2d::load_3x3(&vb.pp("conv_in"), config.in_channels, channels[0])?,
            blocks,
            mid: UNetMidBlock2D::load(&vb.pp("mid_block"), config, last)?,
            norm_out: GroupNorm::load(&vb.pp("conv_norm_out"), config.norm_num_groups, last, NORM_EPS)?,
            conv_out: Conv2d::load_3x3(&vb.pp("conv_out"), last, 2 * config.latent_channels)?,
        })
    }

    /// Encodes `pixels`, `(images, 3, 8h, 8w)`, to `(images, 8, h, w)`.
    pub(super) fn forward(&self, run: &Run, pixels: &Tensor) -> Result<Tensor> {
        let mut x = self.conv_in.forward(run, pixels)?;
        run.put("encoder", "conv_in", &x);
        for block in &self.blocks {
            x = block.forward(run, x)?;
        }
        x = self.mid.forward(run, x)?;
        x = self.norm_out.forward_silu(run, &x, 1)?;
        x = self.conv_out.forward(run, &x)?;
        run.put("encoder", "", &x);
        Ok(x)
    }
}

impl DownEncoderBlock2D {
    fn load(vb: &VarBuilder, config: &VaeConfig, index: usize) -> Result<Self> {
        let channels = &config.block_out_channels;
        let output = channels[index];
        let block_input = if index == 0 { output } else { channels[index - 1] };
        let resnet_keys = vb.pp("resnets");
        let resnets = (0..config.layers_per_block)
            .map(|i| {
                let input = if i == 0 { block_input } else { output };
                ResnetBlock2D::load(&resnet_keys.pp(i), config, input, output)
            })
            .collect::<Result<_>>()?;
        let downsampler = (index + 1 < channels.len())
            .then(|| Conv2d::load(&vb.pp("downsamplers").pp(0).pp("conv"), output, output, 3, 2, 0))
            .transpose()?;
        Ok(Self {
            path: vb.path().to_owned(),
            resnets,
            downsampler,
        })
    }

    fn forward(&self, run: &Run, x: Tensor) -> Result<Tensor> {
        let mut x = x;
        for resnet in &self.resnets {
            x = resnet.forward(run, x)?;
        }
        if let Some(downsampler) = &self.downsampler {
            // As in the reference, the encoder pads only on the right and at the bottom.
            x = pad_right_and_below(run, &x)?;
            x = downsampler.forward(run, &x)?;
            run.put(&self.path, "downsamplers.0", &x);
        }
        run.put(&self.path, "", &x);
        Ok(x)
    }
}
