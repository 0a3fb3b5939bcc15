//! What is the same for every module of one forward pass.

use candle_core::Tensor;

use crate::trace::Trace;

/// What every module of one forward pass needs to know.
pub(super) struct Context<'a> {
    /// Frames of one sample.
    pub(super) frames: usize,
    /// `(batch, width)`, after its MLP.
    pub(super) time: Tensor,
    /// `(batch x frames, tokens, width)`.
    pub(super) audio: Tensor,
    pub(super) trace: &'a Trace,
}
