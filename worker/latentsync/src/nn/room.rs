//! The room that the CPU's own operations work in besides operands and result, in values: what a plan's memory is told
//! from. `threads` share the work, each with room of its own.

use super::{attend, conv, feed_forward, linear};
use crate::slices::{Attention, Convolution, Limits};

/// Of a linear layer: a tile of its weights, widened.
pub(crate) fn linear(input: usize, output: usize, threads: usize) -> usize {
    threads * output.min(linear::TILE_COLUMNS) * input
}

/// Of an attention: the scores of some queries of one head.
pub(crate) fn attention(sizes: Attention, threads: usize) -> usize {
    threads * sizes.queries.min(attend::QUERIES) * sizes.keys
}

/// Of a convolution that keeps the size, or divides it by `stride`.
pub(crate) fn conv2d(sizes: Convolution, stride: usize, threads: usize) -> usize {
    conv::room(sizes, stride, threads)
}

/// Rows of the longest slice of a feed-forward whose rows are `width` wide, 4 x `width` inside.
pub(crate) fn feed_forward_slice(rows: usize, width: usize, limits: Limits) -> usize {
    let slices = feed_forward::whole_tiles(rows, 8 * width, width, limits);
    slices.iter().map(ExactSizeIterator::len).max().unwrap_or(0)
}
