//! Transposition of the last two dimensions on the CPU.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::matrix::{BorrowedValues, borrow_values, contiguous};

/// Transposes `(images, rows, columns)` to `(images, columns, rows)`.
pub(crate) struct CpuTranspose<'a> {
    /// A tensor with the result's values in their order, which is added to it.
    pub(crate) add: Option<&'a Tensor>,
}

/// Side of the squares that are transposed at once: two of them fit into the smallest cache.
const SQUARE: usize = 32;

impl CustomOp1 for CpuTranspose<'_> {
    fn name(&self) -> &'static str {
        "transpose"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (images, rows, columns) = layout.shape().dims3()?;
        let x = contiguous(x, layout)?;
        let add = self.add.map(borrow_values).transpose()?;
        let add = add.as_ref().map(BorrowedValues::values);
        let mut out = vec![0.0_f32; x.len()];
        let band = SQUARE * rows;
        let bands = columns.div_ceil(SQUARE);
        let per_image: Vec<&mut [f32]> = out
            .chunks_mut((rows * columns).max(1))
            .flat_map(|image| image.chunks_mut(band))
            .collect();
        per_image.into_par_iter().enumerate().for_each(|(index, out)| {
            let (image, first) = (index / bands, index % bands * SQUARE);
            let x = &x[image * rows * columns..][..rows * columns];
            let height = out.len() / rows;
            for start in (0..rows).step_by(SQUARE) {
                let end = rows.min(start + SQUARE);
                for c in 0..height {
                    let line = &mut out[c * rows + start..c * rows + end];
                    for (r, to) in line.iter_mut().enumerate() {
                        *to = x[(start + r) * columns + first + c];
                    }
                }
            }
            if let Some(add) = add {
                let at = image * rows * columns + first * rows;
                for (to, add) in out.iter_mut().zip(&add[at..]) {
                    *to += add;
                }
            }
        });
        Ok((CpuStorage::F32(out), Shape::from((images, columns, rows))))
    }
}
