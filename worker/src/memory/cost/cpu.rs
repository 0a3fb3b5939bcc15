//! The CPU's own operations in `f32`. Weights that are mapped in a half type are widened where they are used.

use super::{Account, Cost, bytes};
use crate::latentsync::boundary::Op;
use crate::latentsync::slices::{Limits, feed_forward_rows};

const F32: usize = 4;
/// Rows and columns of a tile of a linear layer, at most.
const TILE_ROWS: usize = 1024;
const TILE_COLUMNS: usize = 320;
/// Queries that one thread scores at once.
const QUERIES: usize = 256;
/// Pixels of a tile of a convolution by patches.
const TILE_PIXELS: usize = 512;
/// Elements of a transformed tile of Winograd's convolution.
const TILE: usize = 16;
/// Tiles that are transformed at once, and transformed weights.
const TILES: usize = 512;
const KERNELS: usize = 16 << 20;

pub(super) fn cost(op: Op, account: &Account) -> Cost {
    let kept = bytes(op.output_elements(), F32);
    let scratch = match op {
        Op::Linear { input, output, .. } => account.threads * output.min(TILE_COLUMNS) * input,
        Op::Conv2d { .. } => convolution(op, account.threads),
        Op::Attention { queries, keys, .. } => account.threads * queries.min(QUERIES) * keys,
        Op::GroupNorm { .. } | Op::LayerNorm { .. } | Op::Geglu { .. } | Op::Copy { .. } => 0,
    };
    Cost {
        peak: kept + bytes(scratch, F32),
        kept,
    }
}

/// Values of the room that a convolution works in.
fn convolution(op: Op, threads: usize) -> usize {
    let Op::Conv2d {
        images,
        input,
        output,
        height,
        width,
        kernel,
        stride,
    } = op
    else {
        return 0;
    };
    let (height, width) = (height / stride, width / stride);
    let depth = input * kernel * kernel;
    if kernel == 3 && stride == 1 && input >= 16 && output >= 16 {
        let columns = width.div_ceil(2).max(1);
        let rows = images * height.div_ceil(2);
        let longest = longest_part(rows, (TILES / columns).max(1)) * columns;
        let widest = longest_part(output, (KERNELS / (TILE * input)).max(1));
        return TILE * (widest * input + input * longest + widest * longest) + threads * depth;
    }
    let area = height * width;
    let pixels = if area < TILE_PIXELS {
        (TILE_PIXELS / area.max(1)).clamp(1, images.max(1)) * area
    } else {
        (TILE_PIXELS / width.max(1)).clamp(1, height.max(1)) * width
    };
    output * depth + threads * (depth + output) * pixels
}

/// `len` things are cut into parts of about the same length, at most `most`: the longest.
fn longest_part(len: usize, most: usize) -> usize {
    len.div_ceil(len.div_ceil(most).max(1))
}

/// Rows of a linear layer's tiles.
fn band(rows: usize, output: usize) -> usize {
    const ENOUGH_TILES: usize = 8;
    let columns = output.div_ceil(TILE_COLUMNS).max(1);
    if rows >= TILE_ROWS && columns * (rows / TILE_ROWS) < ENOUGH_TILES {
        TILE_ROWS / 2
    } else {
        TILE_ROWS
    }
}

/// Slices are whole numbers of tiles of both products.
pub(super) fn feed_forward(rows: usize, width: usize, account: &Account, limits: Limits) -> Cost {
    let most = feed_forward_rows(rows, 8 * width, limits);
    let tile = longest_part(rows, band(rows, 8 * width).max(band(rows, width)));
    let slice = (most / tile * tile).clamp(tile.min(rows), rows);
    let kept = bytes(rows * width, F32);
    let whole = if slice < rows { kept } else { 0 };
    let hidden = bytes(slice * 8 * width, F32);
    let gated = hidden / 2;
    let out = bytes(slice * width, F32);
    let room = |input: usize, output: usize| bytes(account.threads * output.min(TILE_COLUMNS) * input, F32);
    let inside = (hidden + room(width, 8 * width))
        .max(hidden + gated)
        .max(gated + out + room(4 * width, width));
    Cost {
        peak: (whole + inside).max(kept),
        kept,
    }
}
