//! Latents to pixels.

use candle_core::{Result, Tensor};

use super::blocks::{MidBlock, NORM_EPS, ResnetBlock};
use crate::config::VaeConfig;
use crate::layers::{Conv2d, GroupNorm, upsample};
use crate::run::Run;
use crate::tensors::VarBuilder;

pub(super) struct Decoder {
    conv_in: Conv2d,
    mid: MidBlock,
    blocks: Vec<UpBlock>,
    norm_out: GroupNorm,
    conv_out: Conv2d,
}

struct UpBlock {
    path: String,
    resnets: Vec<ResnetBlock>,
    upsampler: Option<Conv2d>,
}

impl Decoder {
    pub(super) fn load(vb: &VarBuilder, config: &VaeConfig) -> Result<Self> {
        let channels = &config.block_out_channels;
        let (first, last) = (channels[0], channels[channels.len() - 1]);
        let block_keys = vb.pp("up_blocks");
        let blocks = (0..channels.len())
            .map(|i| UpBlock::load(&block_keys.pp(i), config, i))
            .collect::<Result<_>>()?;
        Ok(Self {
            conv_in: Conv2d::load_3x3(&vb.pp("conv_in"), config.latent_channels, last)?,
            mid: MidBlock::load(&vb.pp("mid_block"), config, last)?,
            blocks,
            norm_out: GroupNorm::load(&vb.pp("conv_norm_out"), config.norm_num_groups, first, NORM_EPS)?,
            conv_out: Conv2d::load_3x3(&vb.pp("conv_out"), first, config.out_channels)?,
        })
    }

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

impl UpBlock {
    fn load(vb: &VarBuilder, config: &VaeConfig, index: usize) -> Result<Self> {
        let channels = &config.block_out_channels;
        let mirrored = |i: usize| channels[channels.len() - 1 - i];
        let output = mirrored(index);
        let block_input = mirrored(index.saturating_sub(1));
        let resnet_keys = vb.pp("resnets");
        let resnets = (0..=config.layers_per_block)
            .map(|i| {
                let input = if i == 0 { block_input } else { output };
                ResnetBlock::load(&resnet_keys.pp(i), config, input, output)
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
