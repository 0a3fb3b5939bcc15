//! The product of a linear layer on the CPU, in blocks of rows that depend on the shape alone.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape};
use rayon::prelude::*;

use super::matrix::{Matrix, contiguous, product};

/// `x W^T`; operands are `(rows, input)` and `(output, input)`.
pub(super) struct CpuLinear;

/// Rows of a block: enough blocks for many threads, but not so small that laying out the weights dominates.
fn block_rows(rows: usize) -> usize {
    rows.div_ceil(16).clamp(64, 1024)
}

impl CustomOp2 for CpuLinear {
    fn name(&self) -> &'static str {
        "linear-blocks"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (rows, input) = x_layout.shape().dims2()?;
        let (output, _) = weight_layout.shape().dims2()?;
        let x = contiguous(x, x_layout)?;
        let weights = Matrix::dense(contiguous(weight, weight_layout)?, output, input).transposed();
        let block = block_rows(rows);
        let mut out = vec![0.0_f32; rows * output];
        out.par_chunks_mut(block * output)
            .zip(x.par_chunks(block * input))
            .for_each(|(out, x)| {
                let count = out.len() / output;
                product(Matrix::dense(x, count, input), weights, 1.0, out, output);
            });
        Ok((CpuStorage::F32(out), Shape::from((rows, output))))
    }
}
