//! The denoising UNet over one window of video latents. [`denoise`](super::denoise) runs it once or twice for
//! each step.
//!
//! | tensor                  | shape                            | meaning                                                |
//! |-------------------------|----------------------------------|--------------------------------------------------------|
//! | `latents`               | `(batch, 13, frames, h/8, w/8)`  | noisy 4, mask 1, masked 4, reference 4, in that order  |
//! | `encoder_hidden_states` | `(batch, frames, tokens, width)` | Whisper states of each frame                           |
//! | `timestep`              | scalar in `0..1000`              | index into the training noise schedule                 |
//! | result                  | `(batch, 4, frames, h/8, w/8)`   | predicted noise                                        |
//!
//! Inside the network, the frames are a part of the first dimension: `(batch x frames, channels, h, w)`. The
//! norms of the `ResNet` blocks take their statistics over all frames of a sample, and temporal attention
//! mixes the frames. All other operations treat each frame by itself.

mod attention;
mod blocks;
mod context;
mod embeddings;
mod motion;
mod resnet;

use candle_core::{Result, Tensor, bail};

use self::blocks::{DownBlock3D, UNetMidBlock3DCrossAttn, UpBlock3D};
use self::context::ForwardContext;
use self::embeddings::TimestepEmbedding;
use super::config::UNetConfig;
use super::layers::{Conv2d, GroupNorm};
use super::run::Run;
use super::tensors::{NetworkWeights, VarBuilder};

/// The denoising UNet with its weights.
pub struct UNet3DConditionModel {
    conv_in: Conv2d,
    time_embedding: TimestepEmbedding,
    down: Vec<DownBlock3D>,
    mid: UNetMidBlock3DCrossAttn,
    up: Vec<UpBlock3D>,
    norm_out: GroupNorm,
    conv_out: Conv2d,
    network_weights: NetworkWeights,
}

impl UNet3DConditionModel {
    /// Builds the network from the tensors under `vb`.
    pub(super) fn load(vb: &VarBuilder, config: &UNetConfig) -> Result<Self> {
        let vb = &vb.streamed();
        let channels = &config.block_out_channels;
        let (first, last) = (channels[0], channels[channels.len() - 1]);
        let down_keys = vb.pp("down_blocks");
        let down = (0..channels.len())
            .map(|i| DownBlock3D::load(&down_keys.pp(i), config, i))
            .collect::<Result<_>>()?;
        let up_keys = vb.pp("up_blocks");
        let up = (0..channels.len())
            .map(|i| UpBlock3D::load(&up_keys.pp(i), config, i))
            .collect::<Result<_>>()?;
        Ok(Self {
            conv_in: Conv2d::load_3x3(&vb.pp("conv_in"), config.in_channels, first)?,
            time_embedding: TimestepEmbedding::load(&vb.pp("time_embedding"), config)?,
            down,
            mid: UNetMidBlock3DCrossAttn::load(&vb.pp("mid_block"), config, last)?,
            up,
            norm_out: GroupNorm::load(
                &vb.pp("conv_norm_out"),
                config.norm_num_groups,
                first,
                config.norm_eps,
            )?,
            conv_out: Conv2d::load_3x3(&vb.pp("conv_out"), first, config.out_channels)?,
            // This comes last, because it returns the weights that were loaded so far.
            network_weights: vb.network_weights(),
        })
    }

    /// Returns the weights, to evict them from the device while the network is idle.
    pub(super) fn network_weights(&self) -> &NetworkWeights {
        &self.network_weights
    }

    /// Predicts the noise in `latents`; the module's documentation gives the shapes.
    ///
    /// # Errors
    /// Fails if the shapes do not fit each other or the configuration, if memory is short, or if a hook
    /// returns an error.
    pub fn forward(
        &self,
        run: &Run,
        latents: &Tensor,
        timestep: u32,
        encoder_hidden_states: &Tensor,
    ) -> Result<Tensor> {
        let (batch, channels, frames, h, w) = latents.dims5()?;
        let (audio_batch, audio_frames, tokens, width) = encoder_hidden_states.dims4()?;
        if (audio_batch, audio_frames) != (batch, frames) {
            bail!(
                "audio features are for {audio_batch} x {audio_frames} frames, latents for {batch} x {frames}"
            );
        }
        let context = ForwardContext {
            frames,
            temb: self.time_embedding.forward(run, timestep, batch, latents)?,
            encoder_hidden_states: encoder_hidden_states.reshape((batch * frames, tokens, width))?,
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
