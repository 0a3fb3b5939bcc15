//! Building blocks shared by the three networks. Convolutions and norms take `(images, channels, h, w)`; the
//! images of a video are its frames, frame after frame, sample after sample.

#![expect(
    clippy::inline_always,
    reason = "what is not inlined into a loop for wide vectors is not compiled for them"
)]

mod attend;
mod composed;
mod conv;
mod conv1d;
mod feed_forward;
mod gelu;
mod group_norm;
mod layer_norm;
mod layers;
mod linear;
mod matrix;
mod pictures;
pub(crate) mod room;
mod simd;
mod tokens;
#[cfg(test)]
mod under_levers;
mod weight;
mod whole;

pub(super) use attend::attend;
pub(super) use conv1d::Conv1d;
pub(super) use feed_forward::FeedForward;
pub(super) use gelu::gelu;
pub(super) use group_norm::GroupNorm;
pub(super) use layer_norm::LayerNorm;
pub(super) use layers::{Conv2d, Linear};
pub(super) use pictures::{join_channels, pad_right_and_below, upsample};
pub(super) use tokens::{to_picture, to_tokens};

use candle_core::{DType, Tensor};

use super::boundary::levers;

/// Whether `x` is worked on by the operations that were written for the CPU in `f32`, not by composed ones.
fn on_own_ops(x: &Tensor) -> bool {
    x.device().is_cpu() && x.dtype() == DType::F32 && !levers().composed
}
