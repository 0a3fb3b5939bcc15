//! Activations, position embeddings and transpositions on CUDA.

use candle_core::{D, Result, Tensor};

use super::launch::{Arg, LaunchGrid, empty_like, launch_typed, vector_width};

/// `value x gelu(gate)` of `(.., 2 x width)` with the exact (erf) GELU; the value is in the first half of the
/// last dimension.
pub(crate) fn geglu(x: &Tensor) -> Result<Tensor> {
    let x = x.contiguous()?;
    let mut shape = x.dims().to_vec();
    let width = x.dim(D::Minus1)? / 2;
    if let Some(last) = shape.last_mut() {
        *last = width;
    }
    let y = empty_like(shape, &x)?;
    let (values, suffix) = vector_width(width, &[Some(&x)]);
    let packs = y.elem_count() / values;
    let args = [
        Arg::Tensor(&y),
        Arg::Tensor(&x),
        Arg::U32(packs),
        Arg::U32(width / values),
    ];
    launch_typed(&x, "geglu", suffix, LaunchGrid::each(packs), &args)?;
    Ok(y)
}

/// Applies the exact (erf) GELU to every element.
pub(crate) fn gelu(x: &Tensor) -> Result<Tensor> {
    let x = x.contiguous()?;
    let y = empty_like(x.shape(), &x)?;
    let count = x.elem_count();
    let args = [Arg::Tensor(&y), Arg::Tensor(&x), Arg::U32(count)];
    launch_typed(&x, "gelu", "", LaunchGrid::each(count), &args)?;
    Ok(y)
}

/// Adds `table`, `(frames, width)`, to `x`, `(samples, frames, rows, width)`: to every row the values of its
/// frame.
pub(crate) fn add_to_frames(x: &Tensor, table: &Tensor) -> Result<Tensor> {
    let (x, table) = (x.contiguous()?, table.contiguous()?);
    let (_, frames, rows, width) = x.dims4()?;
    let y = empty_like(x.shape(), &x)?;
    let (values, suffix) = vector_width(width, &[Some(&x), Some(&table)]);
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
    launch_typed(&x, "add_to_frames", suffix, LaunchGrid::each(packs), &args)?;
    Ok(y)
}

/// Transposes `(images, rows, columns)` to `(images, columns, rows)` and adds `residual`, which has the
/// result's values in their order.
pub(crate) fn transpose(x: &Tensor, residual: Option<&Tensor>) -> Result<Tensor> {
    let x = x.contiguous()?;
    let (images, rows, columns) = x.dims3()?;
    let residual = residual.map(Tensor::contiguous).transpose()?;
    let y = empty_like((images, columns, rows), &x)?;
    let grid = LaunchGrid::new((columns.div_ceil(32), rows.div_ceil(32), images), (32, 8, 1));
    let args = [
        Arg::Tensor(&y),
        Arg::Tensor(&x),
        Arg::Optional(residual.as_ref()),
        Arg::U32(rows),
        Arg::U32(columns),
    ];
    launch_typed(&x, "transpose", "", grid, &args)?;
    Ok(y)
}
