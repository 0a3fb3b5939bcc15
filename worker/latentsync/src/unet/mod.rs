//! Denoising UNet over one window of video latents.
//!
//! | tensor     | shape                            | meaning                                                |
//! |------------|----------------------------------|--------------------------------------------------------|
//! | `latents`  | `(batch, 13, frames, h/8, w/8)`  | noisy 4, mask 1, masked 4, reference 4, in that order  |
//! | `audio`    | `(batch, frames, tokens, width)` | Whisper states for each frame                          |
//! | `timestep` | scalar in `0..1000`              | index into the training noise schedule                 |
//! | result     | `(batch, 4, frames, h/8, w/8)`   | predicted noise                                        |
//!
//! Inside, frames stand in the first dimension: `(batch x frames, channels, h, w)`. The statistics of the
//! `ResNet` norms span all frames of a sample, temporal attention mixes them, and nothing else does.

mod attention;
mod blocks;
mod context;
mod embeddings;
mod motion;
mod resnet;

use candle_core::{Result, Tensor, bail};

use self::blocks::{DownBlock, MidBlock, UpBlock};
use self::context::Context;
use self::embeddings::TimeEmbedding;
use super::config::UNetConfig;
use super::layers::{Conv2d, GroupNorm};
use super::run::Run;
use super::tensors::{NetworkWeights, VarBuilder};

/// The denoising UNet.
pub struct UNet3DConditionModel {
    conv_in: Conv2d,
    time: TimeEmbedding,
    down: Vec<DownBlock>,
    mid: MidBlock,
    up: Vec<UpBlock>,
    norm_out: GroupNorm,
    conv_out: Conv2d,
    network_weights: NetworkWeights,
}

impl UNet3DConditionModel {
    pub(super) fn load(vb: &VarBuilder, config: &UNetConfig) -> Result<Self> {
        let vb = &vb.streamed();
        let channels = &config.block_out_channels;
        let (first, last) = (channels[0], channels[channels.len() - 1]);
        let down_keys = vb.pp("down_blocks");
        let down = (0..channels.len())
            .map(|i| DownBlock::load(&down_keys.pp(i), config, i))
            .collect::<Result<_>>()?;
        let up_keys = vb.pp("up_blocks");
        let up = (0..channels.len())
            .map(|i| UpBlock::load(&up_keys.pp(i), config, i))
            .collect::<Result<_>>()?;
        Ok(Self {
            conv_in: Conv2d::load_3x3(&vb.pp("conv_in"), config.in_channels, first)?,
            time: TimeEmbedding::load(&vb.pp("time_embedding"), config)?,
            down,
            mid: MidBlock::load(&vb.pp("mid_block"), config, last)?,
            up,
            norm_out: GroupNorm::load(
                &vb.pp("conv_norm_out"),
                config.norm_num_groups,
                first,
                config.norm_eps,
            )?,
            conv_out: Conv2d::load_3x3(&vb.pp("conv_out"), first, config.out_channels)?,
            // Last, when all weights were asked for.
            network_weights: vb.network_weights(),
        })
    }

    /// Brings this network's weights to the device and takes them off.
    pub(super) fn network_weights(&self) -> &NetworkWeights {
        &self.network_weights
    }

    /// Predicts the noise in `latents` (see the module's table for the shapes).
    pub fn forward(&self, run: &Run, latents: &Tensor, timestep: u32, audio: &Tensor) -> Result<Tensor> {
        let (batch, channels, frames, h, w) = latents.dims5()?;
        let (audio_batch, audio_frames, tokens, width) = audio.dims4()?;
        if (audio_batch, audio_frames) != (batch, frames) {
            bail!("audio of {audio_batch} x {audio_frames} frames, latents of {batch} x {frames}");
        }
        let context = Context {
            frames,
            time: self.time.forward(run, timestep, batch, latents)?,
            audio: audio.reshape((batch * frames, tokens, width))?,
            run,
        };

        run.before_copy(latents.elem_count(), latents)?;
        let mut x = latents
            .permute((0, 2, 1, 3, 4))?
            .reshape((batch * frames, channels, h, w))?;
        x = self.conv_in.forward(run, &x)?;
        run.put("conv_in", "", &x);
        let mut skips = vec![x.clone()];
        for block in &self.down {
            x = block.forward(x, &mut skips, &context)?;
        }
        x = self.mid.forward(x, &context)?;
        for block in &self.up {
            x = block.forward(x, &mut skips, &context)?;
        }
        x = self.norm_out.forward_silu(run, &x, frames)?;
        let noise = self.conv_out.forward(run, &x)?;
        drop(x);
        run.before_copy(noise.elem_count(), &noise)?;
        let out_channels = noise.dim(1)?;
        noise
            .reshape((batch, frames, out_channels, h, w))?
            .permute((0, 2, 1, 3, 4))?
            .contiguous()
    }
}
