//! The motion module (`AnimateDiff`): every position attends over the frames of its sample, twice, and a
//! feed-forward follows. [`blocks`](super::blocks) calls it at the end of a layer.

use candle_core::{Result, Tensor, bail};

use super::attention::{Attention, NORM_EPS, UnprojectedAttention};
use super::context::ForwardContext;
use crate::config::MotionConfig;
use crate::layers::{FeedForward, GroupNorm, LayerNorm, Linear, add_positions, to_image, to_tokens};
use crate::run::Run;
use crate::tensors::VarBuilder;

/// The groups of the group norms of motion modules; the configuration's `norm_num_groups` is for the other
/// norms.
const GROUPS: usize = 32;

/// A motion module, which consists of a norm, a projection to tokens, the blocks, and a projection back, with
/// a residual.
pub(super) struct MotionModule {
    module_path: String,
    path: String,
    norm: GroupNorm,
    proj_in: Linear,
    blocks: Vec<TemporalTransformerBlock>,
    proj_out: Linear,
}

impl MotionModule {
    pub(super) fn load(vb: &VarBuilder, config: &MotionConfig, channels: usize) -> Result<Self> {
        let transformer = vb.pp("temporal_transformer");
        let block_keys = transformer.pp("transformer_blocks");
        let blocks = (0..config.num_transformer_block)
            .map(|i| TemporalTransformerBlock::load(&block_keys.pp(i), config, channels))
            .collect::<Result<_>>()?;
        Ok(Self {
            module_path: vb.path().to_owned(),
            path: transformer.path().to_owned(),
            norm: GroupNorm::load(&transformer.pp("norm"), GROUPS, channels, NORM_EPS)?,
            proj_in: Linear::load(&transformer.pp("proj_in"), channels, channels)?,
            blocks,
            proj_out: Linear::load(&transformer.pp("proj_out"), channels, channels)?,
        })
    }

    /// Transforms `x`, `(samples x frames, channels, h, w)`.
    pub(super) fn forward(&self, x: &Tensor, context: &ForwardContext) -> Result<Tensor> {
        let normed = self.norm.forward(context.run, x, 1)?;
        let mut tokens = to_tokens(context.run, &normed)?;
        drop(normed);
        tokens = self.proj_in.forward(context.run, &tokens)?;
        context.run.put(&self.path, "proj_in", &tokens);
        for block in &self.blocks {
            tokens = block.forward(tokens, context)?;
        }
        tokens = self.proj_out.forward(context.run, &tokens)?;
        context.run.put(&self.path, "proj_out", &tokens);
        let y = to_image(context.run, &tokens, x)?;
        context.run.put(&self.path, "", &y);
        context.run.put(&self.module_path, "", &y);
        Ok(y)
    }
}

/// Temporal attentions and a feed-forward, each with a norm before it and a residual.
struct TemporalTransformerBlock {
    path: String,
    attention: Vec<(LayerNorm, TemporalAttention)>,
    ff_norm: LayerNorm,
    ff: FeedForward,
}

/// Attention over the frames, with its position table.
struct TemporalAttention {
    /// The sinusoids that are added to the normed input before the projections, `(longest, width)`.
    positions: Option<Tensor>,
    attention: Attention,
}

impl TemporalTransformerBlock {
    fn load(vb: &VarBuilder, config: &MotionConfig, width: usize) -> Result<Self> {
        let (norms, blocks) = (vb.pp("norms"), vb.pp("attention_blocks"));
        let attention = (0..config.attention_block_types.len())
            .map(|i| {
                Ok((
                    LayerNorm::load(&norms.pp(i), width)?,
                    TemporalAttention::load(&blocks.pp(i), config, width)?,
                ))
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            path: vb.path().to_owned(),
            attention,
            ff_norm: LayerNorm::load(&vb.pp("ff_norm"), width)?,
            ff: FeedForward::load(&vb.pp("ff"), width)?,
        })
    }

    /// Transforms `x`, `(samples x frames, positions, width)`.
    fn forward(&self, x: Tensor, context: &ForwardContext) -> Result<Tensor> {
        let put = |name: &str, output: &Tensor| context.run.put(&self.path, name, output);
        let mut x = x;
        for (i, (norm, attention)) in self.attention.iter().enumerate() {
            let normed = norm.forward(context.run, &x)?;
            put(&format!("norms.{i}"), &normed);
            let mixed = attention.forward(context.run, normed, context.frames)?;
            x = mixed.add_to(&x, context, &self.path, &format!("attention_blocks.{i}"))?;
        }
        let normed = self.ff_norm.forward(context.run, &x)?;
        put("ff_norm", &normed);
        x = self.ff.forward_add(context.run, &normed, &x)?;
        put("", &x);
        Ok(x)
    }
}

impl TemporalAttention {
    fn load(vb: &VarBuilder, config: &MotionConfig, width: usize) -> Result<Self> {
        let longest = config.temporal_position_encoding_max_len;
        let positions = config
            .temporal_position_encoding
            .then(|| {
                vb.pp("pos_encoder")
                    .get(&[1, longest, width], "pe")?
                    .reshape((longest, width))
            })
            .transpose()?;
        Ok(Self {
            positions,
            attention: Attention::load(vb, width, width, config.num_attention_heads)?,
        })
    }

    fn forward(&self, run: &Run, x: Tensor, frames: usize) -> Result<UnprojectedAttention<'_>> {
        let (images, area, width) = x.dims3()?;
        let mut frames_apart = x.reshape((images / frames, frames, area, width))?;
        drop(x);
        if let Some(positions) = &self.positions {
            let longest = positions.dim(0)?;
            if frames > longest {
                bail!("a window of {frames} frames, but the position table has {longest}");
            }
            frames_apart = add_positions(run, &frames_apart, &positions.narrow(0, 0, frames)?)?;
        }
        self.attention.forward_temporal(run, frames_apart)
    }
}
