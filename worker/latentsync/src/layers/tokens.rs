//! Conversions between images `(images, channels, h, w)` and tokens `(images, h x w, channels)`, and
//! operations on tokens.

use candle_core::{Result, Tensor};

use crate::kernels::cpu::CpuTranspose;
use crate::kernels::cuda;
use crate::run::Run;

/// Turns images into tokens, `(images, h x w, channels)`.
pub(crate) fn to_tokens(run: &Run, picture: &Tensor) -> Result<Tensor> {
    run.before_copy(picture.elem_count(), picture)?;
    let flat = picture.flatten_from(2)?;
    if run.on_cpu(picture) {
        return flat.contiguous()?.apply_op1_no_bwd(&CpuTranspose { add: None });
    }
    if run.on_cuda(picture) {
        return cuda::transpose(&flat, None);
    }
    flat.transpose(1, 2)?.contiguous()
}

/// Turns `tokens` into images of the shape of `residual`, and adds `residual`.
pub(crate) fn to_image(run: &Run, tokens: &Tensor, residual: &Tensor) -> Result<Tensor> {
    run.before_copy(tokens.elem_count(), tokens)?;
    if run.on_cpu(tokens) {
        let add = residual.contiguous()?;
        let op = CpuTranspose { add: Some(&add) };
        return tokens
            .contiguous()?
            .apply_op1_no_bwd(&op)?
            .reshape(residual.dims());
    }
    if run.on_cuda(tokens) {
        return cuda::transpose(tokens, Some(residual))?.reshape(residual.dims());
    }
    tokens.transpose(1, 2)?.reshape(residual.dims())? + residual
}

/// Adds `positions`, `(frames, width)`, to `x`, `(samples, frames, rows, width)`: to every row the values of
/// its frame.
pub(crate) fn add_positions(run: &Run, x: &Tensor, positions: &Tensor) -> Result<Tensor> {
    run.before_copy(x.elem_count(), x)?;
    if run.on_cuda(x) {
        return cuda::add_to_frames(x, positions);
    }
    let (frames, width) = positions.dims2()?;
    x.broadcast_add(&positions.reshape((1, frames, 1, width))?)
}

/// Turns `(samples, rows, frames, width)` into contiguous `(samples, frames, rows, width)`.
pub(crate) fn frames_first(run: &Run, x: &Tensor) -> Result<Tensor> {
    run.before_copy(x.elem_count(), x)?;
    let swapped = x.transpose(1, 2)?;
    if run.on_cuda(x) {
        return cuda::dense(&swapped);
    }
    swapped.contiguous()
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn tokens_and_images_are_transposes() {
        for (images, channels, h, w) in [(1, 1, 1, 1), (2, 5, 7, 3), (3, 64, 9, 11), (1, 33, 1, 100)] {
            let count = images * channels * h * w;
            let values = |step: usize| (0..count).map(|i| (i * step % 1009) as f32).collect();
            let shape = (images, channels, h, w);
            let picture = Tensor::from_vec(values(1), shape, &Device::Cpu).unwrap();
            let residual = Tensor::from_vec(values(7), shape, &Device::Cpu).unwrap();
            let list = |x: &Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap();

            let tokens = to_tokens(&Run::default(), &picture).unwrap();
            assert_eq!(tokens.dims(), [images, h * w, channels]);
            let plain = picture.flatten_from(2).unwrap().transpose(1, 2).unwrap();
            assert_eq!(list(&tokens), list(&plain.contiguous().unwrap()));
            let back = to_image(&Run::default(), &tokens, &residual).unwrap();
            assert_eq!(back.dims(), picture.dims());
            assert_eq!(list(&back), list(&(picture + residual).unwrap()));
        }
    }
}
