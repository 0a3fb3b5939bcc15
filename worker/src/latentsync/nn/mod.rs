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
mod gelu;
mod group_norm;
mod layer_norm;
mod layers;
mod linear;
mod matrix;
mod simd;
mod tokens;
mod weight;

pub(super) use attend::attend;
pub(super) use conv1d::Conv1d;
pub(super) use gelu::gelu;
pub(super) use group_norm::GroupNorm;
pub(super) use layer_norm::LayerNorm;
pub(super) use layers::{Conv2d, FeedForward, Linear};
pub(super) use tokens::{to_picture, to_tokens};
