//! Convolution on the CPU: patches are laid out tile by tile and multiplied with the weights as they are
//! stored. Tiles depend on the shape alone.

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape};
use rayon::prelude::*;

use super::matrix::{Matrix, contiguous, product};

/// Pixels of the result that one tile covers, about.
const TILE_PIXELS: usize = 256;

/// Square kernel; operands are the input `(images, in, h, w)`, the weights `(out, in, k, k)`, the bias `(out)`.
pub(super) struct CpuConv2d {
    pub(super) stride: usize,
    pub(super) padding: usize,
}

/// The sizes of one convolution.
#[derive(Clone, Copy)]
struct Sizes {
    images: usize,
    input: usize,
    height: usize,
    width: usize,
    output: usize,
    kernel: usize,
    out_height: usize,
    out_width: usize,
}

/// The part of the result that is computed at once: some rows of one image, or several whole images.
#[derive(Clone, Copy)]
struct Tile {
    first_image: usize,
    images: usize,
    first_row: usize,
    rows: usize,
}

impl CustomOp3 for CpuConv2d {
    fn name(&self) -> &'static str {
        "conv2d-tiles"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (images, input, height, width) = x_layout.shape().dims4()?;
        let (output, _, kernel, _) = weight_layout.shape().dims4()?;
        let reach = |side: usize| (side + 2 * self.padding - kernel) / self.stride + 1;
        let sizes = Sizes {
            images,
            input,
            height,
            width,
            output,
            kernel,
            out_height: reach(height),
            out_width: reach(width),
        };
        let x = contiguous(x, x_layout)?;
        let weight = contiguous(weight, weight_layout)?;
        let bias = contiguous(bias, bias_layout)?;
        let depth = input * kernel * kernel;
        let weights = Matrix::dense(weight, output, depth);

        let mut out = vec![0.0_f32; images * output * sizes.out_height * sizes.out_width];
        let tiles = tiles(sizes);
        let targets = targets(&mut out, sizes, &tiles);
        tiles.into_par_iter().zip(targets).for_each_init(
            || (Vec::new(), Vec::new()),
            |(patches, result), (tile, target)| {
                let pixels = tile.images * tile.rows * sizes.out_width;
                patches.resize(depth * pixels, 0.0);
                self.lay_out(&mut patches[..depth * pixels], x, sizes, tile);
                result.resize(output * pixels, 0.0);
                let right = Matrix::dense(&patches[..depth * pixels], depth, pixels);
                product(weights, right, 1.0, &mut result[..output * pixels], pixels);
                let per_image = pixels / tile.images;
                for (i, plane) in target.into_iter().enumerate() {
                    let (image, channel) = (i / output, i % output);
                    let row = &result[channel * pixels + image * per_image..][..per_image];
                    for (to, from) in plane.iter_mut().zip(row) {
                        *to = from + bias[channel];
                    }
                }
            },
        );
        let shape = Shape::from((images, output, sizes.out_height, sizes.out_width));
        Ok((CpuStorage::F32(out), shape))
    }
}

impl CpuConv2d {
    /// Writes `(input x k x k, pixels)`: under every weight the input pixels that it meets in this tile.
    fn lay_out(&self, patches: &mut [f32], x: &[f32], sizes: Sizes, tile: Tile) {
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
                let y = (tile.first_row + line % tile.rows) * self.stride + ky;
                if y < self.padding || y >= height + self.padding {
                    to.fill(0.0);
                    continue;
                }
                let from = &x[((image * input + channel) * height + y - self.padding) * width..][..width];
                copy_line(to, from, kx, self.padding, self.stride);
            }
        }
    }
}

/// `to[i] = from[i x stride + shift - padding]`, 0 outside.
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

fn tiles(sizes: Sizes) -> Vec<Tile> {
    let area = sizes.out_height * sizes.out_width;
    let mut tiles = Vec::new();
    if area < TILE_PIXELS {
        let at_once = (TILE_PIXELS / area.max(1)).clamp(1, sizes.images.max(1));
        for first_image in (0..sizes.images).step_by(at_once) {
            tiles.push(Tile {
                first_image,
                images: at_once.min(sizes.images - first_image),
                first_row: 0,
                rows: sizes.out_height,
            });
        }
        return tiles;
    }
    let rows = (TILE_PIXELS / sizes.out_width).clamp(1, sizes.out_height);
    for first_image in 0..sizes.images {
        for first_row in (0..sizes.out_height).step_by(rows) {
            tiles.push(Tile {
                first_image,
                images: 1,
                first_row,
                rows: rows.min(sizes.out_height - first_row),
            });
        }
    }
    tiles
}

/// For every tile its parts of the result: per image, per channel.
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

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Tensor};

    fn ramp(shape: (usize, usize, usize, usize)) -> Tensor {
        let count = shape.0 * shape.1 * shape.2 * shape.3;
        let values: Vec<f32> = (0..count)
            .map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0)
            .collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    #[test]
    fn agrees_with_candle_for_every_kind_of_layer() {
        // (images, input, h, w, output, kernel, stride, padding)
        for (images, input, h, w, output, kernel, stride, padding) in [
            (1, 3, 32, 40, 8, 3, 1, 1),
            (16, 4, 8, 8, 5, 3, 1, 1),
            (5, 4, 6, 10, 7, 3, 2, 1),
            (2, 3, 33, 33, 6, 3, 2, 0),
            (3, 8, 20, 20, 4, 1, 1, 0),
            (7, 2, 1, 1, 3, 3, 1, 1),
            (1, 1, 2, 600, 2, 3, 1, 1),
        ] {
            let x = ramp((images, input, h, w));
            let weight = ramp((output, input, kernel, kernel));
            let bias = ramp((1, output, 1, 1));
            let expected = (x
                .conv2d(&weight, padding, stride, 1, 1)
                .unwrap()
                .broadcast_add(&bias))
            .unwrap();
            let op = CpuConv2d { stride, padding };
            let ours = x
                .apply_op3_no_bwd(&weight, &bias.flatten_all().unwrap(), &op)
                .unwrap();
            assert_eq!(ours.dims(), expected.dims());
            let difference = (ours - expected).unwrap().abs().unwrap().max_all().unwrap();
            assert!(
                difference.to_scalar::<f32>().unwrap() < 1e-4,
                "{images} x {h} x {w}, stride {stride}"
            );
        }
    }
}
