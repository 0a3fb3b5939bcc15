//! The product of a linear layer on the CPU, in tiles that depend on its shape alone.

use std::ops::Range;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::matrix::{BorrowedValues, Matrix, SharedOutput, borrow_values, contiguous, ranges};
use super::simd::dispatch_simd;
use crate::tensors::Weight;

/// Most rows of a tile. Small tiles are slow, because each packs its operands anew; but there should be
/// enough tiles for several threads.
const TILE_ROWS: usize = 1024;
/// Most columns of a tile.
pub(crate) const TILE_COLUMNS: usize = 320;
/// Fewest tiles that a product of many rows is partitioned into.
const ENOUGH_TILES: usize = 8;

/// `x W^T + bias + residual`. The operand is `(rows, input)`, the weights are `(output, input)`, the bias is
/// `(output)`, and the residual is `(rows, output)` like the result.
pub(crate) struct CpuLinear<'a> {
    pub(crate) weight: &'a Weight,
    pub(crate) bias: Option<&'a Tensor>,
    pub(crate) residual: Option<&'a Tensor>,
    /// The rows of each tile, which cover all rows in order; see [`bands`].
    pub(crate) bands: &'a [Range<usize>],
}

/// Returns the ranges of rows that the tiles of a product have. They depend on the product's shape alone.
pub(crate) fn bands(rows: usize, output: usize) -> Vec<Range<usize>> {
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
        let bias = self.bias.map(borrow_values).transpose()?;
        let residual = self.residual.map(borrow_values).transpose()?;
        let bias = bias.as_ref().map(BorrowedValues::values);
        let residual = residual.as_ref().map(BorrowedValues::values);

        let columns = ranges(output, TILE_COLUMNS);
        let tiles: Vec<_> = columns
            .iter()
            .flat_map(|columns| self.bands.iter().map(move |band| (columns.clone(), band.clone())))
            .collect();
        let mut out = vec![0.0_f32; rows * output];
        let shared = SharedOutput::new(&mut out);
        self.weight.with(|weights| {
            tiles
                .into_par_iter()
                .for_each_init(Vec::new, |buffer, (columns, band)| {
                    let w = weights.read(columns.start * input..columns.end * input, buffer);
                    let w = Matrix::dense(w, columns.len(), input).transposed();
                    let x = Matrix::dense(&x[band.start * input..band.end * input], band.len(), input);
                    let offset = band.start * output + columns.start;
                    #[expect(unsafe_code, reason = "tiles of one result are written by several threads")]
                    // SAFETY: no two tiles have rows and columns in common.
                    unsafe {
                        shared.product(x, w, 1.0, offset, output);
                    }
                    for row in band {
                        let at = row * output + columns.start;
                        #[expect(unsafe_code, reason = "tiles of one result are written by several threads")]
                        // SAFETY: only this thread uses this row of this tile.
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
    dispatch_simd(
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
                let weight = Weight::resident(w.to_dtype(dtype).unwrap());
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
