//! What the modules of the UNet are given besides their input.

use candle_core::Tensor;

use crate::run::Run;

/// What every module of one forward pass needs to know.
pub(super) struct Context<'a, 'r> {
    /// Frames of one sample.
    pub(super) frames: usize,
    /// `(batch, width)`, after its MLP.
    pub(super) time: Tensor,
    /// `(batch x frames, tokens, width)`.
    pub(super) audio: Tensor,
    pub(super) run: &'a Run<'r>,
}
