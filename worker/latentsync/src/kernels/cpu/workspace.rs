//! The workspaces of the CPU's own operations: the number of values that each holds besides operands and
//! result. The memory prediction adds them up. `threads` threads share the work, and some workspaces exist
//! once for each.

use super::{attention, conv, feed_forward, linear};
use crate::slices::{AttentionShape, ConvolutionShape, SliceLimits};

/// Returns the workspace of a linear layer: for each thread, a tile of weights that are converted to `f32`.
pub(crate) fn linear(input: usize, output: usize, threads: usize) -> usize {
    threads * output.min(linear::TILE_COLUMNS) * input
}

/// Returns the workspace of an attention: for each thread, the scores of some queries of one head.
pub(crate) fn attention(sizes: AttentionShape, threads: usize) -> usize {
    threads * sizes.queries.min(attention::QUERIES) * sizes.keys
}

/// Returns the workspace of a convolution that keeps the size of images, or divides it by `stride`.
pub(crate) fn conv2d(sizes: ConvolutionShape, stride: usize, threads: usize) -> usize {
    conv::workspace_values(sizes, stride, threads)
}

/// Returns the number of rows of the longest slice of a feed-forward whose rows are `width` wide, and 4 x
/// `width` inside.
pub(crate) fn feed_forward_slice(rows: usize, width: usize, limits: SliceLimits) -> usize {
    let slices = feed_forward::whole_tiles(rows, 8 * width, width, limits);
    slices.iter().map(ExactSizeIterator::len).max().unwrap_or(0)
}
