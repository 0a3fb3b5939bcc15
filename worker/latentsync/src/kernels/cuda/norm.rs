//! Group norm and layer norm on CUDA.

use candle_core::{D, Result, Tensor};

use super::launch::{Arg, LaunchGrid, empty_as, empty_like, launch, launch_typed, vector_width};
use crate::kernels::reference::NormSpec;

/// Most values of a group that one block of the group norm reads.
const NORM_PIECE: usize = 8192;

/// Group norm over `(images, channels, h, w)`. Its statistics are computed in pieces of fixed size, which a
/// second kernel joins.
pub(crate) fn group_norm(x: &Tensor, spec: NormSpec) -> Result<Tensor> {
    let x = x.contiguous()?;
    let (total, channels, h, w) = x.dims4()?;
    let group_values = channels / spec.groups * h * w;
    let pieces = group_values.div_ceil(NORM_PIECE);
    let samples = total / spec.images;
    let dtype = candle_core::DType::F32;
    let parts = empty_as((total * spec.groups, pieces, 2), dtype, &x)?;
    let grid = LaunchGrid::new((pieces, total * spec.groups, 1), (256, 1, 1));
    let args = [
        Arg::Tensor(&parts),
        Arg::Tensor(&x),
        Arg::U32(group_values),
        Arg::U32(NORM_PIECE),
    ];
    let (_, suffix) = vector_width(group_values, &[Some(&x)]);
    launch_typed(&x, "group_norm_pieces", suffix, grid, &args)?;

    let stats = empty_as((samples, spec.groups, 2), dtype, &x)?;
    let grid = LaunchGrid::new((spec.groups, samples, 1), (32, 1, 1));
    #[expect(clippy::cast_possible_truncation, reason = "the kernel computes in f32")]
    let eps = spec.eps as f32;
    let args = [
        Arg::Tensor(&stats),
        Arg::Tensor(&parts),
        Arg::U32(spec.groups),
        Arg::U32(spec.images),
        Arg::U32(pieces),
        Arg::U32(group_values),
        Arg::U32(NORM_PIECE),
        Arg::F32(eps),
    ];
    launch(&x, "group_norm_join", grid, &args)?;

    let y = empty_like(x.shape(), &x)?;
    let (values, suffix) = vector_width(h * w, &[Some(&x)]);
    let packs = x.elem_count() / values;
    let args = [
        Arg::Tensor(&y),
        Arg::Tensor(&x),
        Arg::Tensor(&stats),
        Arg::Tensor(spec.affine.0),
        Arg::Tensor(spec.affine.1),
        Arg::U32(packs),
        Arg::U32(h * w / values),
        Arg::U32(channels),
        Arg::U32(spec.groups),
        Arg::U32(spec.images),
        Arg::U32(usize::from(spec.silu)),
    ];
    launch_typed(&x, "group_norm_apply", suffix, LaunchGrid::each(packs), &args)?;
    Ok(y)
}

/// Layer norm over the last dimension.
pub(crate) fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f32) -> Result<Tensor> {
    let x = x.contiguous()?;
    let width = x.dim(D::Minus1)?;
    let rows = x.elem_count() / width.max(1);
    let y = empty_like(x.shape(), &x)?;
    let (values, _) = vector_width(width, &[Some(&x), Some(weight), Some(bias)]);
    let (kernel, columns) = if values > 1 && width / values <= 256 {
        ("layer_norm_packs", width / values)
    } else {
        ("layer_norm", width)
    };
    let args = [
        Arg::Tensor(&y),
        Arg::Tensor(&x),
        Arg::Tensor(weight),
        Arg::Tensor(bias),
        Arg::U32(rows),
        Arg::U32(columns),
        Arg::F32(eps),
    ];
    launch_typed(&x, kernel, "", LaunchGrid::warps(rows), &args)?;
    Ok(y)
}
