//! Between pictures `(images, channels, h, w)` and tokens `(images, h x w, channels)`.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::matrix::{Lent, contiguous, lend};
use super::on_own_ops;
use crate::boundary::before_copy;

/// Tokens of a picture: `(images, h x w, channels)`.
pub(crate) fn to_tokens(picture: &Tensor) -> Result<Tensor> {
    before_copy(picture.elem_count(), picture)?;
    let flat = picture.flatten_from(2)?;
    if on_own_ops(picture) {
        return flat.contiguous()?.apply_op1_no_bwd(&CpuTranspose { add: None });
    }
    flat.transpose(1, 2)?.contiguous()
}

/// The picture of `tokens`, shaped like `residual` and added to it.
pub(crate) fn to_picture(tokens: &Tensor, residual: &Tensor) -> Result<Tensor> {
    before_copy(tokens.elem_count(), tokens)?;
    if on_own_ops(tokens) {
        let add = residual.contiguous()?;
        let op = CpuTranspose { add: Some(&add) };
        return tokens
            .contiguous()?
            .apply_op1_no_bwd(&op)?
            .reshape(residual.dims());
    }
    tokens.transpose(1, 2)?.reshape(residual.dims())? + residual
}

/// `(images, rows, columns)` to `(images, columns, rows)`.
struct CpuTranspose<'a> {
    /// Added to the result.
    add: Option<&'a Tensor>,
}

/// Side of the squares that are turned at once: two of them fit the smallest cache.
const SQUARE: usize = 32;

impl CustomOp1 for CpuTranspose<'_> {
    fn name(&self) -> &'static str {
        "transpose"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (images, rows, columns) = layout.shape().dims3()?;
        let x = contiguous(x, layout)?;
        let add = self.add.map(lend).transpose()?;
        let add = add.as_ref().map(Lent::values);
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

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn tokens_and_pictures_are_transposes() {
        for (images, channels, h, w) in [(1, 1, 1, 1), (2, 5, 7, 3), (3, 64, 9, 11), (1, 33, 1, 100)] {
            let count = images * channels * h * w;
            let values = |step: usize| (0..count).map(|i| (i * step % 1009) as f32).collect();
            let shape = (images, channels, h, w);
            let picture = Tensor::from_vec(values(1), shape, &Device::Cpu).unwrap();
            let residual = Tensor::from_vec(values(7), shape, &Device::Cpu).unwrap();
            let list = |x: &Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap();

            let tokens = to_tokens(&picture).unwrap();
            assert_eq!(tokens.dims(), [images, h * w, channels]);
            let plain = picture.flatten_from(2).unwrap().transpose(1, 2).unwrap();
            assert_eq!(list(&tokens), list(&plain.contiguous().unwrap()));
            let back = to_picture(&tokens, &residual).unwrap();
            assert_eq!(back.dims(), picture.dims());
            assert_eq!(list(&back), list(&(picture + residual).unwrap()));
        }
    }
}
