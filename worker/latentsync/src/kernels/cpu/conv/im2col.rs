//! Convolution by "im2col": the patches under the weights are written as a matrix, tile by tile, and
//! multiplied with the weights as they are stored.

use rayon::prelude::*;

use super::super::matrix::{Matrix, product};
use super::epilogue::add_epilogue;
use super::sizes::{Addends, Sizes};
use crate::slices::pieces;
use crate::tensors::Values;

/// Approximate number of the result's pixels that a tile covers.
const TILE_PIXELS: usize = 512;

/// The part of the result that is computed at once: some rows of one image, or several whole images.
#[derive(Clone, Copy)]
struct Tile {
    first_image: usize,
    images: usize,
    first_row: usize,
    rows: usize,
}

/// Convolves `x` into `out`; its shape is documented at [`CpuConv2d`](super::CpuConv2d).
pub(super) fn convolve(x: &[f32], weights: Values, addends: Addends, sizes: Sizes, out: &mut [f32]) {
    let Sizes {
        input,
        output,
        kernel,
        out_width,
        ..
    } = sizes;
    let depth = input * kernel * kernel;
    let mut converted = Vec::new();
    let weights = Matrix::dense(weights.read(0..output * depth, &mut converted), output, depth);
    let area = sizes.out_height * out_width;
    let tiles = tiles(sizes);
    let targets = targets(out, sizes, &tiles);
    tiles.into_par_iter().zip(targets).for_each_init(
        || (Vec::new(), Vec::new()),
        |(patches, result), (tile, target)| {
            let pixels = tile.images * tile.rows * out_width;
            patches.resize(depth * pixels, 0.0);
            fill_patches(&mut patches[..depth * pixels], x, sizes, tile);
            result.resize(output * pixels, 0.0);
            let right = Matrix::dense(&patches[..depth * pixels], depth, pixels);
            product(weights, right, 1.0, &mut result[..output * pixels], pixels);
            let per_image = pixels / tile.images;
            for (i, plane) in target.into_iter().enumerate() {
                let (image, channel) = (i / output, i % output);
                let row = &result[channel * pixels + image * per_image..][..per_image];
                let image = tile.first_image + image;
                let at = (image * output + channel) * area + tile.first_row * out_width;
                let residual = addends.residual.map(|residual| &residual[at..at + plane.len()]);
                add_epilogue(plane, row, addends.bias(sizes, image, channel), residual);
            }
        },
    );
}

/// Writes the patches of a tile, `(input x k x k, pixels)`: for every weight the input pixels that it is
/// multiplied with.
fn fill_patches(patches: &mut [f32], x: &[f32], sizes: Sizes, tile: Tile) {
    let Sizes {
        input,
        height,
        width,
        kernel,
        out_width,
        ..
    } = sizes;
    let pixels = tile.images * tile.rows * out_width;
    for (depth, row) in patches.chunks_mut(pixels).enumerate() {
        let (channel, ky, kx) = (depth / (kernel * kernel), depth / kernel % kernel, depth % kernel);
        for (line, to) in row.chunks_mut(out_width).enumerate() {
            let image = tile.first_image + line / tile.rows;
            let y = (tile.first_row + line % tile.rows) * sizes.stride + ky;
            if y < sizes.padding || y >= height + sizes.padding {
                to.fill(0.0);
                continue;
            }
            let from = &x[((image * input + channel) * height + y - sizes.padding) * width..][..width];
            copy_line(to, from, kx, sizes.padding, sizes.stride);
        }
    }
}

/// Copies `to[i] = from[i x stride + shift - padding]`, with zeros outside of `from`.
fn copy_line(to: &mut [f32], from: &[f32], shift: usize, padding: usize, stride: usize) {
    if stride == 1 {
        let first = padding.saturating_sub(shift).min(to.len());
        let end = (from.len() + padding - shift).clamp(first, to.len());
        to[..first].fill(0.0);
        to[end..].fill(0.0);
        let start = first + shift - padding.min(first + shift);
        to[first..end].copy_from_slice(&from[start..start + end - first]);
        return;
    }
    for (i, to) in to.iter_mut().enumerate() {
        let position = (i * stride + shift).checked_sub(padding);
        *to = position
            .and_then(|position| from.get(position))
            .copied()
            .unwrap_or(0.0);
    }
}

/// Returns the number of images and of rows of the largest tile.
fn tile(sizes: Sizes) -> (usize, usize) {
    let area = sizes.out_height * sizes.out_width;
    if area < TILE_PIXELS {
        let images = (TILE_PIXELS / area.max(1)).clamp(1, sizes.images.max(1));
        return (images, sizes.out_height);
    }
    (1, (TILE_PIXELS / sizes.out_width).clamp(1, sizes.out_height))
}

/// Returns the number of values in the workspace: the weights in `f32`, and each thread's patches and
/// products.
pub(super) fn workspace_values(sizes: Sizes, threads: usize) -> usize {
    let depth = sizes.input * sizes.kernel * sizes.kernel;
    let (images, rows) = tile(sizes);
    let pixels = images * rows * sizes.out_width;
    sizes.output * depth + threads * (depth + sizes.output) * pixels
}

/// Returns the tiles of the result in order.
fn tiles(sizes: Sizes) -> Vec<Tile> {
    let (images_at_once, rows_at_once) = tile(sizes);
    let of_images = |(first_image, images)| {
        pieces(sizes.out_height, rows_at_once).map(move |(first_row, rows)| Tile {
            first_image,
            images,
            first_row,
            rows,
        })
    };
    pieces(sizes.images, images_at_once).flat_map(of_images).collect()
}

/// Returns for every tile its parts of the result: image by image, channel by channel.
fn targets<'a>(out: &'a mut [f32], sizes: Sizes, tiles: &[Tile]) -> Vec<Vec<&'a mut [f32]>> {
    let area = sizes.out_height * sizes.out_width;
    let Some(first) = tiles.first() else {
        return Vec::new();
    };
    let per_image = sizes.out_height.div_ceil(first.rows);
    let mut targets: Vec<Vec<&mut [f32]>> = tiles.iter().map(|_| Vec::new()).collect();
    for (i, plane) in out.chunks_mut(area).enumerate() {
        let image = i / sizes.output;
        for (t, part) in plane.chunks_mut(first.rows * sizes.out_width).enumerate() {
            targets[image / first.images * per_image + t].push(part);
        }
    }
    targets
}
