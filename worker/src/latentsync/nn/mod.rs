//! Building blocks shared by the three networks. Convolutions and norms take `(images, channels, h, w)`; the
//! images of a video are its frames, frame after frame, sample after sample.

mod attend;
mod composed;
mod conv;
mod gelu;
mod group_norm;
mod layers;
mod linear;
mod matrix;

pub(super) use attend::attend;
pub(super) use gelu::gelu;
pub(super) use group_norm::GroupNorm;
pub(super) use layers::{Conv2d, FeedForward, LayerNorm, Linear};
