//! Copies of images `(images, channels, h, w)` into other sizes.

use candle_core::{Result, Tensor};

use crate::run::Run;

/// Nearest-neighbour upsampling to `(height, width)`.
pub(crate) fn upsample(run: &Run, x: &Tensor, (height, width): (usize, usize)) -> Result<Tensor> {
    let (images, channels, _, _) = x.dims4()?;
    run.before_copy(images * channels * height * width, x)?;
    x.upsample_nearest2d(height, width)
}

/// Concatenates the channels of `a` and `b`.
pub(crate) fn join_channels(run: &Run, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    run.before_copy(a.elem_count() + b.elem_count(), a)?;
    Tensor::cat(&[a, b], 1)
}

/// Pads with one column of zeros on the right and one row of zeros at the bottom.
pub(crate) fn pad_right_and_below(run: &Run, x: &Tensor) -> Result<Tensor> {
    let (images, channels, height, width) = x.dims4()?;
    run.before_copy(images * channels * (height + 1) * (width + 1), x)?;
    x.pad_with_zeros(2, 0, 1)?.pad_with_zeros(3, 0, 1)
}
