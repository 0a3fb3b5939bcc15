//! Winograd's minimal filtering F(2x2, 3x3): 16 products for four pixels where the plain way takes 36 (Lavin and Gray,
//! "Fast Algorithms for Convolutional Neural Networks", 2015).
//!
//! The input is cut into tiles of 4x4 pixels that overlap by two; tile and kernel are transformed, multiplied
//! element by element with a sum over channels (16 matrix products), and transformed back to 2x2 pixels. The
//! transforms are sums, differences and halves, so the error is that of the plain way, about 1e-6.

use std::ops::Range;

use rayon::prelude::*;

use super::super::matrix::{Matrix, Shared, ranges};
use super::super::simd::wide;
use super::sizes::{Addends, Sizes, finish};
use crate::weights::Values;

/// Elements of a transformed tile.
const TILE: usize = 16;

/// How much is held at once. It changes memory and speed, not what is computed.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    /// Tiles, about.
    pub(super) tiles: usize,
    /// Transformed weights. They are made anew in every call: kept, they would add 78 % to the layer's weights.
    pub(super) kernels: usize,
}

/// With 64 MiB of transformed weights.
pub(super) const LIMITS: Limits = Limits {
    tiles: 512,
    kernels: 16 << 20,
};

/// Most output channels of one matrix product.
const CHANNELS_AT_ONCE: usize = 320;

/// Whether a layer is done this way: a matter of its shape alone.
pub(super) fn suits(sizes: Sizes) -> bool {
    (sizes.kernel, sizes.stride, sizes.padding) == (3, 1, 1) && sizes.input >= 16 && sizes.output >= 16
}

/// How the tiles of all images lie: row after row, image after image.
#[derive(Clone, Copy)]
struct Grid {
    /// Rows of tiles in an image.
    rows: usize,
    /// Tiles in a row.
    columns: usize,
}

/// How a convolution is cut into what is held at once.
struct Cut {
    grid: Grid,
    /// Rows of tiles.
    bands: Vec<Range<usize>>,
    /// Output channels.
    parts: Vec<Range<usize>>,
    /// Values of the longest band and the widest part: transformed weights, transformed tiles and their products.
    kernels: usize,
    tiles: usize,
    products: usize,
}

impl Cut {
    fn new(sizes: Sizes, limits: Limits) -> Self {
        let grid = Grid {
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

/// Values of what is held at once, and of each thread's widened weights.
pub(super) fn room(sizes: Sizes, threads: usize) -> usize {
    let cut = Cut::new(sizes, LIMITS);
    cut.kernels + cut.tiles + cut.products + threads * sizes.input * 9
}

pub(super) fn convolve(
    x: &[f32],
    weights: Values,
    addends: Addends,
    sizes: Sizes,
    limits: Limits,
    out: &mut [f32],
) {
    let Cut {
        grid,
        bands,
        parts,
        kernels,
        tiles,
        products,
    } = Cut::new(sizes, limits);
    let mut kernels = vec![0.0_f32; kernels];
    let mut tiles = vec![0.0_f32; tiles];
    let mut products = vec![0.0_f32; products];
    let shared = Shared::new(out);
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
            // A single band stays transformed for all parts.
            if index == 0 || bands.len() > 1 {
                tiles.par_chunks_mut(TILE * count).enumerate().for_each_init(
                    Edges::default,
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

/// One product for each of the 16 elements of a tile.
fn multiply(kernels: &[f32], tiles: &[f32], products: &mut [f32], input: usize, count: usize) {
    let output = kernels.len() / (TILE * input);
    let groups = ranges(output, CHANNELS_AT_ONCE);
    let jobs: Vec<_> = (0..TILE)
        .flat_map(|element| groups.iter().map(move |group| (element, group.clone())))
        .collect();
    let shared = Shared::new(products);
    jobs.into_par_iter().for_each(|(element, group)| {
        let left = Matrix {
            data: &kernels[(group.start * TILE + element) * input..],
            rows: group.len(),
            columns: input,
            row_stride: TILE * input,
            column_stride: 1,
        };
        let right = Matrix {
            data: &tiles[element * count..],
            rows: input,
            columns: count,
            row_stride: TILE * count,
            column_stride: 1,
        };
        let offset = (group.start * TILE + element) * count;
        #[expect(unsafe_code, reason = "parts of one result are written by several threads")]
        // SAFETY: each job has its own channels or its own element of every tile.
        unsafe {
            shared.product(left, right, 1.0, offset, TILE * count);
        }
    });
}

/// Kernels that are transformed side by side.
const SIDE_BY_SIDE: usize = 16;

/// `G g G^T` for every input channel: `(input, 9)` to `(16, input)`.
fn transform_kernels(weights: &[f32], out: &mut [f32]) {
    let input = weights.len() / 9;
    wide(
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

/// `G` times a column: `a`, `(a + b + c) / 2`, `(a - b + c) / 2`, `c`.
#[inline(always)]
fn spread([a, b, c]: [&[f32; SIDE_BY_SIDE]; 3]) -> [[f32; SIDE_BY_SIDE]; 4] {
    let mut halves = [[0.0_f32; SIDE_BY_SIDE]; 2];
    for i in 0..SIDE_BY_SIDE {
        halves[0][i] = 0.5 * (a[i] + b[i] + c[i]);
        halves[1][i] = 0.5 * (a[i] - b[i] + c[i]);
    }
    [*a, halves[0], halves[1], *c]
}

/// Four lines of the input, even and odd pixels apart, with the padding.
#[derive(Default)]
struct Edges {
    /// Pixels 0, 2, 4, ..., one more than there are tiles.
    even: [Vec<f32>; 4],
    /// Pixels -1, 1, 3, ..., one more than there are tiles.
    odd: [Vec<f32>; 4],
}

impl Edges {
    /// Takes in four lines, of which some may be padding.
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

/// `B^T d B` for the tiles of one channel, from a row of tiles on: `(16, count)`.
fn transform_tiles(
    x: &[f32],
    sizes: Sizes,
    grid: Grid,
    (channel, first_row): (usize, usize),
    out: &mut [f32],
    edges: &mut Edges,
) {
    let count = out.len() / TILE;
    let Sizes {
        input, height, width, ..
    } = sizes;
    wide(
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

/// One row of tiles; elements of a tile are `count` apart.
#[inline(always)]
fn transform_row(edges: &Edges, columns: usize, out: &mut [f32], count: usize) {
    // Rows of B^T: the first line plus or minus the second.
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

/// `A^T m A` for one row of tiles of one channel: two lines of the result, finished.
#[expect(clippy::too_many_arguments, reason = "one line of a loop over three things")]
fn write_rows(
    products: &[f32],
    (line, count): (usize, usize),
    (channel, tile_row): (usize, usize),
    sizes: Sizes,
    grid: Grid,
    addends: Addends,
    out: &Shared,
    lines: &mut Vec<f32>,
) {
    let (image, row) = (tile_row / grid.rows, tile_row % grid.rows);
    lines.resize(4 * grid.columns, 0.0);
    let (upper, lower) = lines.split_at_mut(2 * grid.columns);
    let element = |i: usize| &products[i * count + line..][..grid.columns];
    let elements: [&[f32]; TILE] = std::array::from_fn(element);
    wide(
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
        // SAFETY: each channel's lines are written by one thread.
        let to = unsafe { out.slice(at, sizes.width) };
        let residual = addends.residual.map(|residual| &residual[at..at + sizes.width]);
        finish(to, values, addends.bias(sizes, image, channel), residual);
    }
}

/// One line of every tile: the rows `first`, `second`, `third` of its elements, summed with signs, then the columns.
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
