//! Winograd's minimal filtering F(2x2, 3x3), which takes 16 products for four pixels where a direct
//! convolution takes 36 (Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2015).
//!
//! The input is divided into tiles of 4x4 pixels that overlap by two. Tiles and kernels are transformed,
//! multiplied element by element with a sum over channels (16 matrix products), and transformed back to 2x2
//! pixels. The transforms are sums, differences and halves, so that the relative error is that of a direct
//! convolution, about 1e-6.

use std::ops::Range;

use rayon::prelude::*;

use super::super::matrix::{Matrix, SharedOutput, ranges};
use super::super::simd::dispatch_simd;
use super::epilogue::add_epilogue;
use super::sizes::{Addends, Sizes};
use crate::tensors::Values;

/// Number of elements of a transformed tile, 4x4.
const TILE: usize = 16;

/// How much of the intermediate values is in memory at once. It changes memory and speed, not what is
/// computed.
#[derive(Clone, Copy)]
pub(super) struct WorkingSetLimits {
    /// Approximate number of tiles that are transformed at once.
    pub(super) tiles: usize,
    /// Number of values of transformed weights. They are computed anew in every call: to keep them would add
    /// 78 % to the layer's weights.
    pub(super) kernels: usize,
}

/// The limits in use, with 64 MiB of transformed weights.
pub(super) const LIMITS: WorkingSetLimits = WorkingSetLimits {
    tiles: 512,
    kernels: 16 << 20,
};

/// Most output channels of one matrix product.
const CHANNELS_AT_ONCE: usize = 320;

/// Returns whether a layer is computed by this algorithm, which depends on its shape alone.
pub(super) fn suits(sizes: Sizes) -> bool {
    (sizes.kernel, sizes.stride, sizes.padding) == (3, 1, 1) && sizes.input >= 16 && sizes.output >= 16
}

/// The grid of tiles of one image. The tiles of all images are numbered row after row, image after image.
#[derive(Clone, Copy)]
struct TileGrid {
    /// Number of rows of tiles in an image.
    rows: usize,
    /// Number of tiles in a row.
    columns: usize,
}

/// How a convolution is partitioned into what is in memory at once.
struct Partition {
    grid: TileGrid,
    /// Ranges of rows of tiles, over all images.
    bands: Vec<Range<usize>>,
    /// Ranges of output channels, the parts that are computed after each other.
    parts: Vec<Range<usize>>,
    /// Number of values of the widest part's transformed weights, the longest band's transformed tiles, and
    /// their products.
    kernels: usize,
    tiles: usize,
    products: usize,
}

impl Partition {
    fn new(sizes: Sizes, limits: WorkingSetLimits) -> Self {
        let grid = TileGrid {
            rows: sizes.height.div_ceil(2),
            columns: sizes.width.div_ceil(2),
        };
        let longest = |ranges: &[Range<usize>]| ranges.iter().map(ExactSizeIterator::len).max().unwrap_or(0);
        let bands = ranges(
            sizes.images * grid.rows,
            (limits.tiles / grid.columns.max(1)).max(1),
        );
        let parts = ranges(sizes.output, (limits.kernels / (TILE * sizes.input)).max(1));
        let (count, width) = (longest(&bands) * grid.columns, longest(&parts));
        Self {
            grid,
            bands,
            parts,
            kernels: width * TILE * sizes.input,
            tiles: sizes.input * TILE * count,
            products: width * TILE * count,
        }
    }
}

/// Returns the number of values in the workspace: what is in memory at once, and each thread's weights in
/// `f32`.
pub(super) fn workspace_values(sizes: Sizes, threads: usize) -> usize {
    let partition = Partition::new(sizes, LIMITS);
    partition.kernels + partition.tiles + partition.products + threads * sizes.input * 9
}

/// Convolves `x` into `out`; its shape is documented at [`CpuConv2d`](super::CpuConv2d).
pub(super) fn convolve(
    x: &[f32],
    weights: Values,
    addends: Addends,
    sizes: Sizes,
    limits: WorkingSetLimits,
    out: &mut [f32],
) {
    let Partition {
        grid,
        bands,
        parts,
        kernels,
        tiles,
        products,
    } = Partition::new(sizes, limits);
    let mut kernels = vec![0.0_f32; kernels];
    let mut tiles = vec![0.0_f32; tiles];
    let mut products = vec![0.0_f32; products];
    let shared = SharedOutput::new(out);
    for (index, part) in parts.iter().enumerate() {
        let kernels = &mut kernels[..part.len() * TILE * sizes.input];
        kernels
            .par_chunks_mut(TILE * sizes.input)
            .zip(part.clone().into_par_iter())
            .for_each_init(Vec::new, |buffer, (kernel, channel)| {
                let depth = sizes.input * 9;
                let weights = weights.read(channel * depth..(channel + 1) * depth, buffer);
                transform_kernels(weights, kernel);
            });
        for band in &bands {
            let count = band.len() * grid.columns;
            let tiles = &mut tiles[..sizes.input * TILE * count];
            // If there is a single band, its tiles are transformed once for all parts.
            if index == 0 || bands.len() > 1 {
                tiles.par_chunks_mut(TILE * count).enumerate().for_each_init(
                    InputLines::default,
                    |edges, (channel, tiles)| {
                        transform_tiles(x, sizes, grid, (channel, band.start), tiles, edges);
                    },
                );
            }
            let products = &mut products[..part.len() * TILE * count];
            multiply(kernels, tiles, products, sizes.input, count);
            products
                .par_chunks(TILE * count)
                .zip(part.clone().into_par_iter())
                .for_each_init(Vec::new, |lines, (products, channel)| {
                    for (i, row) in band.clone().enumerate() {
                        let line = i * grid.columns;
                        write_rows(
                            products,
                            (line, count),
                            (channel, row),
                            sizes,
                            grid,
                            addends,
                            &shared,
                            lines,
                        );
                    }
                });
        }
    }
}

/// Computes a matrix product for each of the 16 elements of a tile, `(output, input)` by `(input, count)`.
fn multiply(kernels: &[f32], tiles: &[f32], products: &mut [f32], input: usize, count: usize) {
    let output = kernels.len() / (TILE * input);
    let groups = ranges(output, CHANNELS_AT_ONCE);
    let jobs: Vec<_> = (0..TILE)
        .flat_map(|element| groups.iter().map(move |group| (element, group.clone())))
        .collect();
    let shared = SharedOutput::new(products);
    jobs.into_par_iter().for_each(|(element, group)| {
        let left = &kernels[(group.start * TILE + element) * input..];
        let left = Matrix {
            row_stride: TILE * input,
            ..Matrix::dense(left, group.len(), input)
        };
        let right = Matrix {
            row_stride: TILE * count,
            ..Matrix::dense(&tiles[element * count..], input, count)
        };
        let offset = (group.start * TILE + element) * count;
        #[expect(unsafe_code, reason = "parts of one result are written by several threads")]
        // SAFETY: no two jobs have both channels and the element of the tiles in common.
        unsafe {
            shared.product(left, right, 1.0, offset, TILE * count);
        }
    });
}

/// Number of kernels that are transformed side by side, in vector lanes.
const SIDE_BY_SIDE: usize = 16;

/// Computes `G g G^T` for every input channel: `(input, 9)` to `(16, input)`.
fn transform_kernels(weights: &[f32], out: &mut [f32]) {
    let input = weights.len() / 9;
    dispatch_simd(
        #[inline(always)]
        || {
            for first in (0..input).step_by(SIDE_BY_SIDE) {
                let count = SIDE_BY_SIDE.min(input - first);
                let mut taps = [[0.0_f32; SIDE_BY_SIDE]; 9];
                for (i, kernel) in weights[first * 9..(first + count) * 9]
                    .chunks_exact(9)
                    .enumerate()
                {
                    for (tap, &value) in taps.iter_mut().zip(kernel) {
                        tap[i] = value;
                    }
                }
                let mut columns = [[[0.0_f32; SIDE_BY_SIDE]; 3]; 4];
                for j in 0..3 {
                    let spread = spread([&taps[j], &taps[3 + j], &taps[6 + j]]);
                    for (row, values) in columns.iter_mut().zip(spread) {
                        row[j] = values;
                    }
                }
                for (i, [a, b, c]) in columns.iter().enumerate() {
                    for (j, values) in spread([a, b, c]).iter().enumerate() {
                        let at = (i * 4 + j) * input + first;
                        out[at..at + count].copy_from_slice(&values[..count]);
                    }
                }
            }
        },
    );
}

/// Multiplies `G` with a column: `a`, `(a + b + c) / 2`, `(a - b + c) / 2`, `c`.
#[inline(always)]
fn spread([a, b, c]: [&[f32; SIDE_BY_SIDE]; 3]) -> [[f32; SIDE_BY_SIDE]; 4] {
    let mut halves = [[0.0_f32; SIDE_BY_SIDE]; 2];
    for i in 0..SIDE_BY_SIDE {
        halves[0][i] = 0.5 * (a[i] + b[i] + c[i]);
        halves[1][i] = 0.5 * (a[i] - b[i] + c[i]);
    }
    [*a, halves[0], halves[1], *c]
}

/// Four lines of the input with the padding, as even and odd pixels.
#[derive(Default)]
struct InputLines {
    /// Pixels 0, 2, 4 and so on, one more than there are tiles in a row.
    even: [Vec<f32>; 4],
    /// Pixels -1, 1, 3 and so on, one more than there are tiles in a row.
    odd: [Vec<f32>; 4],
}

impl InputLines {
    /// Fills in four lines of pixels; `None` is a line of padding.
    #[inline(always)]
    fn fill(&mut self, lines: [Option<&[f32]>; 4], columns: usize) {
        for ((line, even), odd) in lines.into_iter().zip(&mut self.even).zip(&mut self.odd) {
            even.clear();
            odd.clear();
            even.resize(columns + 1, 0.0);
            odd.resize(columns + 1, 0.0);
            let Some(line) = line else {
                continue;
            };
            let pairs = line.chunks_exact(2);
            let rest = pairs.remainder();
            if let [last] = rest {
                even[columns - 1] = *last;
            }
            for ((pair, even), odd) in pairs.zip(even.iter_mut()).zip(&mut odd[1..]) {
                *even = pair[0];
                *odd = pair[1];
            }
        }
    }
}

/// Computes `B^T d B` for the tiles of one channel, from row `first_row` of tiles on: `(16, count)`.
fn transform_tiles(
    x: &[f32],
    sizes: Sizes,
    grid: TileGrid,
    (channel, first_row): (usize, usize),
    out: &mut [f32],
    edges: &mut InputLines,
) {
    let count = out.len() / TILE;
    let Sizes {
        input, height, width, ..
    } = sizes;
    dispatch_simd(
        #[inline(always)]
        || {
            for i in 0..count / grid.columns {
                let (image, row) = ((first_row + i) / grid.rows, (first_row + i) % grid.rows);
                let plane = &x[(image * input + channel) * height * width..][..height * width];
                let lines = std::array::from_fn(|line| {
                    let y = (2 * row + line).checked_sub(1)?;
                    (y < height).then(|| &plane[y * width..(y + 1) * width])
                });
                edges.fill(lines, grid.columns);
                transform_row(edges, grid.columns, &mut out[i * grid.columns..], count);
            }
        },
    );
}

/// Transforms one row of tiles; the elements of a tile are `count` values apart in `out`.
#[inline(always)]
fn transform_row(edges: &InputLines, columns: usize, out: &mut [f32], count: usize) {
    // Each row of B^T is the first of two lines plus or minus the second.
    for (i, (first, second, sign)) in [(0, 2, -1.0_f32), (1, 2, 1.0), (2, 1, -1.0), (1, 3, -1.0)]
        .into_iter()
        .enumerate()
    {
        let (even, even_2) = (&edges.even[first], &edges.even[second]);
        let (odd, odd_2) = (&edges.odd[first], &edges.odd[second]);
        let (mut a, rest) = out[i * 4 * count..].split_at_mut(count);
        let (mut b, rest) = rest.split_at_mut(count);
        let (mut c, mut d) = rest.split_at_mut(count);
        (a, b) = (&mut a[..columns], &mut b[..columns]);
        (c, d) = (&mut c[..columns], &mut d[..columns]);
        let (even, even_next) = (&even[..columns], &even[1..=columns]);
        let (even_2, even_2_next) = (&even_2[..columns], &even_2[1..=columns]);
        let (odd, odd_next) = (&odd[..columns], &odd[1..=columns]);
        let (odd_2, odd_2_next) = (&odd_2[..columns], &odd_2[1..=columns]);
        for t in 0..columns {
            let p0 = odd[t] + sign * odd_2[t];
            let p1 = even[t] + sign * even_2[t];
            let p2 = odd_next[t] + sign * odd_2_next[t];
            let p3 = even_next[t] + sign * even_2_next[t];
            a[t] = p0 - p2;
            b[t] = p1 + p2;
            c[t] = p2 - p1;
            d[t] = p1 - p3;
        }
    }
}

/// Computes `A^T m A` for one row of tiles of one channel, and writes two lines of the result with their
/// addends.
#[expect(
    clippy::too_many_arguments,
    reason = "the body of a loop over parts, bands and rows"
)]
fn write_rows(
    products: &[f32],
    (line, count): (usize, usize),
    (channel, tile_row): (usize, usize),
    sizes: Sizes,
    grid: TileGrid,
    addends: Addends,
    out: &SharedOutput,
    lines: &mut Vec<f32>,
) {
    let (image, row) = (tile_row / grid.rows, tile_row % grid.rows);
    lines.resize(4 * grid.columns, 0.0);
    let (upper, lower) = lines.split_at_mut(2 * grid.columns);
    let element = |i: usize| &products[i * count + line..][..grid.columns];
    let elements: [&[f32]; TILE] = std::array::from_fn(element);
    dispatch_simd(
        #[inline(always)]
        || {
            collect(&elements, [0, 4, 8], [1.0, 1.0], upper);
            collect(&elements, [4, 8, 12], [-1.0, -1.0], lower);
        },
    );
    for (values, y) in [(upper, 2 * row), (lower, 2 * row + 1)] {
        if y >= sizes.height {
            continue;
        }
        let at = ((image * sizes.output + channel) * sizes.height + y) * sizes.width;
        #[expect(unsafe_code, reason = "planes of one result are written by several threads")]
        // SAFETY: only one thread writes the lines of a channel.
        let to = unsafe { out.slice(at, sizes.width) };
        let residual = addends.residual.map(|residual| &residual[at..at + sizes.width]);
        add_epilogue(to, values, addends.bias(sizes, image, channel), residual);
    }
}

/// Computes one line of the result's pixels for a row of tiles: sums three rows of each tile's elements with
/// signs, then the columns. The rows begin at the elements `first`, `second` and `third`.
#[inline(always)]
fn collect(
    elements: &[&[f32]; TILE],
    [first, second, third]: [usize; 3],
    [sign_2, sign_3]: [f32; 2],
    to: &mut [f32],
) {
    let columns = to.len() / 2;
    let row = |start: usize| -> [&[f32]; 4] { std::array::from_fn(|j| &elements[start + j][..columns]) };
    let (a, b, c) = (row(first), row(second), row(third));
    for (t, pair) in to.chunks_exact_mut(2).enumerate().take(columns) {
        let sum = |j: usize| a[j][t] + sign_2 * b[j][t] + sign_3 * c[j][t];
        let (s0, s1, s2, s3) = (sum(0), sum(1), sum(2), sum(3));
        pair[0] = s0 + s1 + s2;
        pair[1] = s1 - s2 - s3;
    }
}
