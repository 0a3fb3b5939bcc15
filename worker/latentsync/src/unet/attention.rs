//! The spatial transformer of the UNet: self-attention within a frame, cross-attention to the audio of that
//! frame, and a feed-forward. [`blocks`](super::blocks) calls it after the `ResNet` block of a layer.

use candle_core::{Result, Tensor};

use super::context::ForwardContext;
use crate::config::UNetConfig;
use crate::layers::{FeedForward, GroupNorm, LayerNorm, Linear, attend, frames_first, to_image, to_tokens};
use crate::run::Run;
use crate::tensors::VarBuilder;

/// The epsilon of the group norms of transformers; the configuration's `norm_eps` is for `ResNet` blocks
/// alone.
pub(super) const NORM_EPS: f64 = 1e-6;

/// Multi-head attention with its projections, of which only the last has a bias.
pub(super) struct Attention {
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
    heads: usize,
}

impl Attention {
    /// Loads the projections; `context_width` is the width of what keys and values are made from.
    pub(super) fn load(vb: &VarBuilder, width: usize, context_width: usize, heads: usize) -> Result<Self> {
        Ok(Self {
            to_q: Linear::load_no_bias(&vb.pp("to_q"), width, width)?,
            to_k: Linear::load_no_bias(&vb.pp("to_k"), context_width, width)?,
            to_v: Linear::load_no_bias(&vb.pp("to_v"), context_width, width)?,
            to_out: Linear::load(&vb.pp("to_out").pp(0), width, width)?,
            heads,
        })
    }

    /// Attends from `x` to `encoder_hidden_states`, or to `x` itself if there are none.
    ///
    /// # Shapes
    /// `x` is `(rows, queries, width)`, `encoder_hidden_states` is `(rows, keys, context width)`.
    pub(super) fn forward(
        &self,
        run: &Run,
        x: Tensor,
        encoder_hidden_states: Option<&Tensor>,
    ) -> Result<UnprojectedAttention<'_>> {
        let (q, k, v) = self.project(run, &x, encoder_hidden_states.unwrap_or(&x))?;
        drop(x);
        let mixed = attend(
            run,
            &q.unsqueeze(0)?,
            &k.unsqueeze(0)?,
            &v.unsqueeze(0)?,
            self.heads,
        )?;
        Ok(UnprojectedAttention {
            values: mixed.squeeze(0)?,
            to_out: &self.to_out,
        })
    }

    /// Attends over the frames of `x`, `(samples, frames, positions, width)`, for each position by itself.
    pub(super) fn forward_temporal(&self, run: &Run, x: Tensor) -> Result<UnprojectedAttention<'_>> {
        let (q, k, v) = self.project(run, &x, &x)?;
        drop(x);
        let mixed = attend(
            run,
            &q.transpose(1, 2)?,
            &k.transpose(1, 2)?,
            &v.transpose(1, 2)?,
            self.heads,
        )?;
        drop((q, k, v));
        let (samples, area, frames, width) = mixed.dims4()?;
        Ok(UnprojectedAttention {
            values: frames_first(run, &mixed)?.reshape((samples * frames, area, width))?,
            to_out: &self.to_out,
        })
    }

    /// Returns the queries of `x` and the keys and values of `context`.
    fn project(&self, run: &Run, x: &Tensor, context: &Tensor) -> Result<(Tensor, Tensor, Tensor)> {
        Ok((
            self.to_q.forward(run, x)?,
            self.to_k.forward(run, context)?,
            self.to_v.forward(run, context)?,
        ))
    }
}

/// The result of attention before its last projection.
pub(super) struct UnprojectedAttention<'a> {
    values: Tensor,
    to_out: &'a Linear,
}

impl UnprojectedAttention<'_> {
    /// Applies the last projection and adds `residual`. The projection without the residual is recorded as
    /// `path.name`.
    pub(super) fn add_to(
        self,
        residual: &Tensor,
        context: &ForwardContext,
        path: &str,
        name: &str,
    ) -> Result<Tensor> {
        let y = self.to_out.forward_add(context.run, &self.values, residual)?;
        context.run.put_derived(path, name, || &y - residual)?;
        Ok(y)
    }
}

/// The spatial transformer, which consists of a norm, a projection to tokens, one block, and a projection
/// back, with a residual.
pub(super) struct Transformer3DModel {
    path: String,
    norm: GroupNorm,
    proj_in: Linear,
    block: BasicTransformerBlock,
    proj_out: Linear,
}

impl Transformer3DModel {
    pub(super) fn load(vb: &VarBuilder, config: &UNetConfig, channels: usize) -> Result<Self> {
        Ok(Self {
            path: vb.path().to_owned(),
            norm: GroupNorm::load(&vb.pp("norm"), config.norm_num_groups, channels, NORM_EPS)?,
            proj_in: Linear::load_1x1(&vb.pp("proj_in"), channels, channels)?,
            block: BasicTransformerBlock::load(&vb.pp("transformer_blocks").pp(0), config, channels)?,
            proj_out: Linear::load_1x1(&vb.pp("proj_out"), channels, channels)?,
        })
    }

    /// Transforms `x`, `(batch x frames, channels, h, w)`, frame by frame.
    pub(super) fn forward(&self, x: &Tensor, context: &ForwardContext) -> Result<Tensor> {
        let (images, channels, h, w) = x.dims4()?;
        let put = |name, tokens: &Tensor| {
            let picture = || tokens.transpose(1, 2)?.reshape((images, channels, h, w));
            context.run.put_derived(&self.path, name, picture)
        };
        let normed = self.norm.forward(context.run, x, 1)?;
        let mut tokens = to_tokens(context.run, &normed)?;
        drop(normed);
        tokens = self.proj_in.forward(context.run, &tokens)?;
        put("proj_in", &tokens)?;
        tokens = self.block.forward(tokens, context)?;
        tokens = self.proj_out.forward(context.run, &tokens)?;
        put("proj_out", &tokens)?;
        let y = to_image(context.run, &tokens, x)?;
        context.run.put(&self.path, "", &y);
        Ok(y)
    }
}

/// Self-attention, cross-attention and a feed-forward, each with a norm before it and a residual.
struct BasicTransformerBlock {
    path: String,
    norm1: LayerNorm,
    attn1: Attention,
    norm2: LayerNorm,
    attn2: Attention,
    norm3: LayerNorm,
    ff: FeedForward,
}

impl BasicTransformerBlock {
    fn load(vb: &VarBuilder, config: &UNetConfig, width: usize) -> Result<Self> {
        let heads = config.attention_heads;
        Ok(Self {
            path: vb.path().to_owned(),
            norm1: LayerNorm::load(&vb.pp("norm1"), width)?,
            attn1: Attention::load(&vb.pp("attn1"), width, width, heads)?,
            norm2: LayerNorm::load(&vb.pp("norm2"), width)?,
            attn2: Attention::load(&vb.pp("attn2"), width, config.cross_attention_dim, heads)?,
            norm3: LayerNorm::load(&vb.pp("norm3"), width)?,
            ff: FeedForward::load(&vb.pp("ff"), width)?,
        })
    }

    fn forward(&self, x: Tensor, context: &ForwardContext) -> Result<Tensor> {
        let put = |name, output: &Tensor| context.run.put(&self.path, name, output);
        let mut x = x;
        let normed = self.norm1.forward(context.run, &x)?;
        put("norm1", &normed);
        let mixed = self.attn1.forward(context.run, normed, None)?;
        x = mixed.add_to(&x, context, &self.path, "attn1")?;

        let normed = self.norm2.forward(context.run, &x)?;
        put("norm2", &normed);
        let mixed = self
            .attn2
            .forward(context.run, normed, Some(&context.encoder_hidden_states))?;
        x = mixed.add_to(&x, context, &self.path, "attn2")?;

        let normed = self.norm3.forward(context.run, &x)?;
        put("norm3", &normed);
        x = self.ff.forward_add(context.run, &normed, &x)?;
        put("", &x);
        Ok(x)
    }
}
