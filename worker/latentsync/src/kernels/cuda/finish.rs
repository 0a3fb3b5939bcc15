//! What follows a product, in place: bias, shift and residual.

use candle_core::{D, Result, Tensor};

use super::launch::{Arg, Grid, pack, start};

/// What follows a product.
#[derive(Clone, Copy)]
pub(crate) struct Finish<'a> {
    /// `(channels)`.
    pub(crate) bias: Option<&'a Tensor>,
    /// `(samples, channels)`, for pictures.
    pub(crate) shift: Option<&'a Tensor>,
    /// Shaped like the result.
    pub(crate) residual: Option<&'a Tensor>,
}

/// Adds to the rows of `(rows, width)` in place; `y` must be no one else's.
pub(crate) fn finish_rows(y: &Tensor, finish: Finish) -> Result<()> {
    if finish.bias.is_none() && finish.residual.is_none() {
        return Ok(());
    }
    let residual = finish.residual.map(Tensor::contiguous).transpose()?;
    let width = y.dim(D::Minus1)?;
    let (values, ending) = pack(width, &[Some(y), finish.bias, residual.as_ref()]);
    let packs = y.elem_count() / values;
    let args = [
        Arg::Tensor(y),
        Arg::Optional(finish.bias),
        Arg::Optional(residual.as_ref()),
        Arg::U32(packs),
        Arg::U32(width / values),
    ];
    start(y, "bias_rows", ending, Grid::each(packs), &args)
}

/// Adds to pictures `(images, channels, h, w)` in place; `y` must be no one else's.
pub(super) fn finish_planes(y: &Tensor, finish: Finish) -> Result<()> {
    let (images, channels, h, w) = y.dims4()?;
    let residual = finish.residual.map(Tensor::contiguous).transpose()?;
    let shift = finish.shift.map(Tensor::contiguous).transpose()?;
    let samples = shift.as_ref().map_or(Ok(1), |shift| shift.dim(0))?;
    let (values, ending) = pack(h * w, &[Some(y), residual.as_ref()]);
    let packs = y.elem_count() / values;
    let args = [
        Arg::Tensor(y),
        Arg::Optional(finish.bias),
        Arg::Optional(shift.as_ref()),
        Arg::Optional(residual.as_ref()),
        Arg::U32(packs),
        Arg::U32(h * w / values),
        Arg::U32(channels),
        Arg::U32(packs / samples),
    ];
    debug_assert_eq!(images % samples, 0);
    start(y, "bias_planes", ending, Grid::each(packs), &args)
}
