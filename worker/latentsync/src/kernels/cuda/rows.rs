//! Activations, positions and transpositions.

use candle_core::{D, Result, Tensor};

use super::launch::{Arg, Grid, output, pack, start};

/// `value x gelu(gate)` of `(.., 2 x width)`, with the exact GELU.
pub(crate) fn geglu(x: &Tensor) -> Result<Tensor> {
    let x = x.contiguous()?;
    let mut shape = x.dims().to_vec();
    let width = x.dim(D::Minus1)? / 2;
    if let Some(last) = shape.last_mut() {
        *last = width;
    }
    let y = output(shape, &x)?;
    let (values, ending) = pack(width, &[Some(&x)]);
    let packs = y.elem_count() / values;
    let args = [
        Arg::Tensor(&y),
        Arg::Tensor(&x),
        Arg::U32(packs),
        Arg::U32(width / values),
    ];
    start(&x, "geglu", ending, Grid::each(packs), &args)?;
    Ok(y)
}

/// The exact GELU.
pub(crate) fn gelu(x: &Tensor) -> Result<Tensor> {
    let x = x.contiguous()?;
    let y = output(x.shape(), &x)?;
    let count = x.elem_count();
    let args = [Arg::Tensor(&y), Arg::Tensor(&x), Arg::U32(count)];
    start(&x, "gelu", "", Grid::each(count), &args)?;
    Ok(y)
}

/// `x`, `(samples, frames, rows, width)`, and `table`, `(frames, width)`, added to every row of its frame.
pub(crate) fn add_to_frames(x: &Tensor, table: &Tensor) -> Result<Tensor> {
    let (x, table) = (x.contiguous()?, table.contiguous()?);
    let (_, frames, rows, width) = x.dims4()?;
    let y = output(x.shape(), &x)?;
    let (values, ending) = pack(width, &[Some(&x), Some(&table)]);
    let packs = x.elem_count() / values;
    let args = [
        Arg::Tensor(&y),
        Arg::Tensor(&x),
        Arg::Tensor(&table),
        Arg::U32(packs),
        Arg::U32(rows),
        Arg::U32(width / values),
        Arg::U32(frames),
    ];
    start(&x, "add_to_frames", ending, Grid::each(packs), &args)?;
    Ok(y)
}

/// `(images, rows, columns)` to `(images, columns, rows)`, and `residual`, which has the result's values in their order,
/// added.
pub(crate) fn transpose(x: &Tensor, residual: Option<&Tensor>) -> Result<Tensor> {
    let x = x.contiguous()?;
    let (images, rows, columns) = x.dims3()?;
    let residual = residual.map(Tensor::contiguous).transpose()?;
    let y = output((images, columns, rows), &x)?;
    let grid = Grid {
        blocks: (columns.div_ceil(32), rows.div_ceil(32), images),
        threads: (32, 8, 1),
    };
    let args = [
        Arg::Tensor(&y),
        Arg::Tensor(&x),
        Arg::Optional(residual.as_ref()),
        Arg::U32(rows),
        Arg::U32(columns),
    ];
    start(&x, "transpose", "", grid, &args)?;
    Ok(y)
}
