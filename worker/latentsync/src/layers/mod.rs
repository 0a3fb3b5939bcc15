//! The layers of the three networks. A layer holds its weights, calls the hooks of the run before each
//! operation, and chooses the kernel that computes it. Convolutions and norms take `(images, channels, h,
//! w)`; the images of a video are its frames, frame after frame, sample after sample.

mod attend;
mod conv1d;
mod conv2d;
mod feed_forward;
mod gelu;
mod group_norm;
mod images;
mod layer_norm;
mod linear;
#[cfg(test)]
mod tests;
mod tokens;
mod upcast;

pub(crate) use attend::attend;
pub(crate) use conv1d::Conv1d;
pub(crate) use conv2d::Conv2d;
pub(crate) use feed_forward::FeedForward;
pub(crate) use gelu::gelu;
pub(crate) use group_norm::GroupNorm;
pub(crate) use images::{join_channels, pad_right_and_below, upsample};
pub(crate) use layer_norm::LayerNorm;
pub(crate) use linear::Linear;
pub(crate) use tokens::{add_positions, frames_first, to_image, to_tokens};
