//! The epilogue of a product, which adds bias, shift and residual in place.

use candle_core::{D, Result, Tensor};

use super::launch::{Arg, LaunchGrid, launch_typed, vector_width};

/// What is added to a product.
#[derive(Clone, Copy)]
pub(crate) struct Epilogue<'a> {
    /// One value for each channel, `(channels)`.
    pub(crate) bias: Option<&'a Tensor>,
    /// One value for each channel of each sample, `(samples, channels)`; only for images.
    pub(crate) shift: Option<&'a Tensor>,
    /// A tensor with the shape of the result.
    pub(crate) residual: Option<&'a Tensor>,
}

/// Adds bias and residual to `y`, `(rows, width)`, in place; no other tensor may share its storage.
pub(crate) fn add_epilogue_to_rows(y: &Tensor, epilogue: Epilogue) -> Result<()> {
    if epilogue.bias.is_none() && epilogue.residual.is_none() {
        return Ok(());
    }
    let residual = epilogue.residual.map(Tensor::contiguous).transpose()?;
    let width = y.dim(D::Minus1)?;
    let (values, suffix) = vector_width(width, &[Some(y), epilogue.bias, residual.as_ref()]);
    let packs = y.elem_count() / values;
    let args = [
        Arg::Tensor(y),
        Arg::Optional(epilogue.bias),
        Arg::Optional(residual.as_ref()),
        Arg::U32(packs),
        Arg::U32(width / values),
    ];
    launch_typed(y, "bias_rows", suffix, LaunchGrid::each(packs), &args)
}

/// Adds an epilogue to images `y`, `(images, channels, h, w)`, in place; no other tensor may share their
/// storage.
pub(super) fn add_epilogue_to_planes(y: &Tensor, epilogue: Epilogue) -> Result<()> {
    let (images, channels, h, w) = y.dims4()?;
    let residual = epilogue.residual.map(Tensor::contiguous).transpose()?;
    let shift = epilogue.shift.map(Tensor::contiguous).transpose()?;
    let samples = shift.as_ref().map_or(Ok(1), |shift| shift.dim(0))?;
    let (values, suffix) = vector_width(h * w, &[Some(y), residual.as_ref()]);
    let packs = y.elem_count() / values;
    let args = [
        Arg::Tensor(y),
        Arg::Optional(epilogue.bias),
        Arg::Optional(shift.as_ref()),
        Arg::Optional(residual.as_ref()),
        Arg::U32(packs),
        Arg::U32(h * w / values),
        Arg::U32(channels),
        Arg::U32(packs / samples),
    ];
    debug_assert_eq!(images % samples, 0);
    launch_typed(y, "bias_planes", suffix, LaunchGrid::each(packs), &args)
}
