//! Whisper's audio encoder, which returns the states of all its layers. The pipeline runs it once for each
//! audio window.

use candle_core::{Result, Tensor};

use crate::config::WhisperDims;
use crate::layers::{Conv1d, LayerNorm, Linear, attend, gelu, to_tokens};
use crate::run::Run;
use crate::tensors::{NetworkWeights, VarBuilder};

/// The audio encoder with its weights. Only [`WhisperEncoder::finish`] uses its final norm.
pub struct WhisperEncoder {
    conv1: Conv1d,
    conv2: Conv1d,
    /// The position table, `(positions, width)`.
    positions: Tensor,
    blocks: Vec<ResidualAttentionBlock>,
    ln_post: LayerNorm,
    network_weights: NetworkWeights,
}

/// Self-attention and an MLP, each with a norm before it and a residual.
struct ResidualAttentionBlock {
    attn_ln: LayerNorm,
    query: Linear,
    key: Linear,
    value: Linear,
    out: Linear,
    mlp_ln: LayerNorm,
    mlp_in: Linear,
    mlp_out: Linear,
    heads: usize,
}

impl ResidualAttentionBlock {
    fn load(vb: &VarBuilder, dims: &WhisperDims) -> Result<Self> {
        let width = dims.n_audio_state;
        let (attn, mlp) = (vb.pp("attn"), vb.pp("mlp"));
        Ok(Self {
            attn_ln: LayerNorm::load(&vb.pp("attn_ln"), width)?,
            query: Linear::load(&attn.pp("query"), width, width)?,
            key: Linear::load_no_bias(&attn.pp("key"), width, width)?,
            value: Linear::load(&attn.pp("value"), width, width)?,
            out: Linear::load(&attn.pp("out"), width, width)?,
            mlp_ln: LayerNorm::load(&vb.pp("mlp_ln"), width)?,
            mlp_in: Linear::load(&mlp.pp(0), width, 4 * width)?,
            mlp_out: Linear::load(&mlp.pp(2), 4 * width, width)?,
            heads: dims.n_audio_head,
        })
    }

    fn forward(&self, run: &Run, x: &Tensor) -> Result<Tensor> {
        let normed = self.attn_ln.forward(run, x)?;
        let (q, k, v) = (
            self.query.forward(run, &normed)?,
            self.key.forward(run, &normed)?,
            self.value.forward(run, &normed)?,
        );
        let mixed = attend(
            run,
            &q.unsqueeze(0)?,
            &k.unsqueeze(0)?,
            &v.unsqueeze(0)?,
            self.heads,
        )?;
        let x = self.out.forward_add(run, &mixed.squeeze(0)?, x)?;
        let hidden = gelu(run, &self.mlp_in.forward(run, &self.mlp_ln.forward(run, &x)?)?)?;
        self.mlp_out.forward_add(run, &hidden, &x)
    }
}

impl WhisperEncoder {
    /// Builds the network from the tensors under `vb`, which has the prefix `encoder`.
    pub(crate) fn load(vb: &VarBuilder, dims: &WhisperDims) -> Result<Self> {
        let width = dims.n_audio_state;
        let block_keys = vb.pp("blocks");
        Ok(Self {
            conv1: Conv1d::load(&vb.pp("conv1"), dims.n_mels, width, 1)?,
            conv2: Conv1d::load(&vb.pp("conv2"), width, width, 2)?,
            positions: vb.get(&[dims.n_audio_ctx, width], "positional_embedding")?,
            blocks: (0..dims.n_audio_layer)
                .map(|i| ResidualAttentionBlock::load(&block_keys.pp(i), dims))
                .collect::<Result<_>>()?,
            ln_post: LayerNorm::load(&vb.pp("ln_post"), width)?,
            network_weights: vb.network_weights(),
        })
    }

    /// Returns the weights, to evict them from the device while the network is idle.
    pub(crate) fn network_weights(&self) -> &NetworkWeights {
        &self.network_weights
    }

    /// Returns the states of the embedding and of every block, without the final norm.
    ///
    /// # Shapes
    /// `mel` is `(1, 80, 3000)`; the result `(1500, layers + 1, width)`.
    pub fn forward(&self, run: &Run, mel: &Tensor) -> Result<Tensor> {
        let mut x = to_tokens(run, mel)?.squeeze(0)?;
        x = gelu(run, &self.conv1.forward(run, &x)?)?;
        x = gelu(run, &self.conv2.forward(run, &x)?)?;
        run.before_copy(x.elem_count(), &x)?;
        x = (x + &self.positions)?.unsqueeze(0)?;
        let mut states = vec![x.squeeze(0)?];
        for block in &self.blocks {
            x = block.forward(run, &x)?;
            states.push(x.squeeze(0)?);
        }
        run.before_copy(states.len() * x.elem_count(), &x)?;
        Tensor::stack(&states, 1)
    }

    /// Applies the final norm to the last layer's states, which gives the usual output of Whisper's encoder.
    /// The lip-sync model does not use it; tests compare it with the reference.
    pub fn finish(&self, run: &Run, states: &Tensor) -> Result<Tensor> {
        let layers = states.dim(1)?;
        self.ln_post
            .forward(run, &states.narrow(1, layers - 1, 1)?.squeeze(1)?)
    }
}
