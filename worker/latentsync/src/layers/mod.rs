//! Building blocks shared by the three networks. A layer holds its weights, calls the hooks of the run, and chooses the kernel that does it. Convolutions and norms take `(images, channels, h, w)`; the images of a video are its
//! frames, frame after frame, sample after sample.

mod attend;
mod conv1d;
mod conv2d;
mod feed_forward;
mod gelu;
mod group_norm;
mod layer_norm;
mod linear;
mod pictures;
#[cfg(test)]
mod tests;
mod tokens;
mod widened;

pub(crate) use attend::attend;
pub(crate) use conv1d::Conv1d;
pub(crate) use conv2d::Conv2d;
pub(crate) use feed_forward::FeedForward;
pub(crate) use gelu::gelu;
pub(crate) use group_norm::GroupNorm;
pub(crate) use layer_norm::LayerNorm;
pub(crate) use linear::Linear;
pub(crate) use pictures::{join_channels, pad_right_and_below, upsample};
pub(crate) use tokens::{add_positions, frames_first, to_picture, to_tokens};
