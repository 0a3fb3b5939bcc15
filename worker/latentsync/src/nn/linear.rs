//! The product of a linear layer on the CPU, in tiles that depend on the shape alone.

use std::ops::Range;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::matrix::{Lent, Matrix, Shared, contiguous, lend, ranges};
use super::simd::wide;
use super::weight::Weight;

/// Most rows and columns of a tile. Each tile lays out its operands anew, so small ones are slow; but there should be
/// enough of them for several threads.
const TILE_ROWS: usize = 1024;
pub(super) const TILE_COLUMNS: usize = 320;
/// Fewest tiles that a product of many rows is cut into.
const ENOUGH_TILES: usize = 8;

/// `x W^T + bias + residual`; the operand is `(rows, input)`, the weights `(output, input)`, the residual like the
/// result, `(rows, output)`.
pub(super) struct CpuLinear<'a> {
    pub(super) weight: &'a Weight,
    pub(super) bias: Option<&'a Tensor>,
    pub(super) residual: Option<&'a Tensor>,
    /// Rows of each tile; see [`bands`].
    pub(super) bands: &'a [Range<usize>],
}

/// How the rows of a product are cut into tiles: by its shape alone.
pub(super) fn bands(rows: usize, output: usize) -> Vec<Range<usize>> {
    let columns = output.div_ceil(TILE_COLUMNS).max(1);
    let most = if rows >= TILE_ROWS && columns * (rows / TILE_ROWS) < ENOUGH_TILES {
        TILE_ROWS / 2
    } else {
        TILE_ROWS
    };
    ranges(rows, most)
}

impl CustomOp1 for CpuLinear<'_> {
    fn name(&self) -> &'static str {
        "linear-tiles"
    }

    fn cpu_fwd(&self, x: &CpuStorage, x_layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, input) = x_layout.shape().dims2()?;
        let output = self.weight.shape()[0];
        let x = contiguous(x, x_layout)?;
        let bias = self.bias.map(lend).transpose()?;
        let residual = self.residual.map(lend).transpose()?;
        let bias = bias.as_ref().map(Lent::values);
        let residual = residual.as_ref().map(Lent::values);

        let columns = ranges(output, TILE_COLUMNS);
        let tiles: Vec<_> = columns
            .iter()
            .flat_map(|columns| self.bands.iter().map(move |band| (columns.clone(), band.clone())))
            .collect();
        let mut out = vec![0.0_f32; rows * output];
        let shared = Shared::new(&mut out);
        self.weight.with(|weights| {
            tiles
                .into_par_iter()
                .for_each_init(Vec::new, |buffer, (columns, band)| {
                    let w = weights.read(columns.start * input..columns.end * input, buffer);
                    let w = Matrix::dense(w, columns.len(), input).transposed();
                    let x = Matrix::dense(&x[band.start * input..band.end * input], band.len(), input);
                    let offset = band.start * output + columns.start;
                    #[expect(unsafe_code, reason = "tiles of one result are written by several threads")]
                    // SAFETY: the tiles cover different rows or columns.
                    unsafe {
                        shared.product(x, w, 1.0, offset, output);
                    }
                    for row in band {
                        let at = row * output + columns.start;
                        #[expect(unsafe_code, reason = "tiles of one result are written by several threads")]
                        // SAFETY: this row of this tile is used here alone.
                        let out = unsafe { shared.slice(at, columns.len()) };
                        if let Some(bias) = bias {
                            add(out, &bias[columns.clone()]);
                        }
                        if let Some(residual) = residual {
                            add(out, &residual[at..at + columns.len()]);
                        }
                    }
                });
            Ok(())
        })?;
        Ok((CpuStorage::F32(out), Shape::from((rows, output))))
    }
}

fn add(to: &mut [f32], from: &[f32]) {
    wide(
        #[inline(always)]
        || {
            for (to, from) in to.iter_mut().zip(from) {
                *to += from;
            }
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    #[test]
    fn tiles_agree_with_one_product_for_every_type_of_weight() {
        for (rows, input, output) in [(1, 3, 5), (70, 40, 330), (1030, 9, 641), (2100, 5, 7)] {
            let tensor = |shape: (usize, usize), step: usize| {
                let values: Vec<f32> = (0..shape.0 * shape.1)
                    .map(|i| ((i * step % 101) as f32 - 50.0) / 64.0)
                    .collect();
                Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
            };
            let (x, w) = (tensor((rows, input), 37), tensor((output, input), 53));
            let (bias, residual) = (tensor((1, output), 29), tensor((rows, output), 31));
            let expected = x.matmul(&w.t().unwrap()).unwrap();
            let expected = (expected.broadcast_add(&bias).unwrap() + &residual).unwrap();
            for dtype in [DType::F32, DType::F16, DType::BF16] {
                // The values are multiples of 1/64 below 1 and so the same in all three types.
                let weight = Weight::held(w.to_dtype(dtype).unwrap());
                let op = CpuLinear {
                    weight: &weight,
                    bias: Some(&bias.flatten_all().unwrap()),
                    residual: Some(&residual),
                    bands: &bands(rows, output),
                };
                let ours = x.apply_op1_no_bwd(&op).unwrap();
                let difference = (ours - &expected).unwrap().abs().unwrap().max_all().unwrap();
                assert!(
                    difference.to_scalar::<f32>().unwrap() < 1e-4,
                    "{rows} x {input} x {output}"
                );
            }
        }
    }
}
