//! The inputs that all modules of the UNet share, besides the tensor that each one transforms.

use candle_core::Tensor;

use crate::run::Run;

/// The shared inputs of one forward pass.
pub(super) struct ForwardContext<'a, 'r> {
    /// The number of frames of one sample.
    pub(super) frames: usize,
    /// The timestep embedding after its MLP, `(batch, 4 x first block's channels)`.
    pub(super) temb: Tensor,
    /// The audio features of each frame, `(batch x frames, tokens, width)`.
    pub(super) encoder_hidden_states: Tensor,
    /// The options, hooks and recorder of the run.
    pub(super) run: &'a Run<'r>,
}
