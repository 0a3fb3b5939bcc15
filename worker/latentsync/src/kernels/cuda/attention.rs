//! Attention on CUDA: two cuBLAS products with a softmax between them, so that the scores are in memory.

use candle_core::{D, Result, Tensor, bail};

use super::launch::{Arg, LaunchGrid, empty_like, launch_typed, vector_width};
use crate::kernels::reference::{CopyOps, attention_within};
use crate::slices::SliceLimits;

/// A four-dimensional view of a tensor; the values of its last dimension must be adjacent.
#[derive(Clone, Copy)]
struct Strided {
    dims: [usize; 4],
    strides: [usize; 4],
}

impl Strided {
    /// Returns the view of `x` itself, with leading dimensions of 1.
    fn of(x: &Tensor) -> Result<Self> {
        let (mut dims, mut strides) = ([1; 4], [0; 4]);
        let Some(first) = 4_usize.checked_sub(x.rank()) else {
            bail!("{:?} has more than four dimensions", x.dims());
        };
        dims[first..].copy_from_slice(x.dims());
        strides[first..].copy_from_slice(x.stride());
        Ok(Self { dims, strides })
    }

    /// Copies this view of `x` into a contiguous tensor, with each value multiplied by `scale`.
    fn copy(self, x: &Tensor, scale: f32) -> Result<Tensor> {
        let Self {
            dims: [n0, n1, n2, width],
            strides: [s0, s1, s2, last],
        } = self;
        if last != 1 && width != 1 {
            bail!("the values of a row are {last} apart");
        }
        let (values, suffix) = vector_width(width, &[Some(x)]);
        let apart = [s0, s1, s2].iter().all(|step| step.is_multiple_of(values));
        let (values, suffix) = if apart { (values, suffix) } else { (1, "") };
        let y = empty_like((n0, n1, n2, width), x)?;
        let packs = y.elem_count() / values;
        let args = [
            Arg::Tensor(&y),
            Arg::Tensor(x),
            Arg::U32(packs),
            Arg::U32(n1),
            Arg::U32(n2),
            Arg::U32(width / values),
            Arg::U64(s0),
            Arg::U64(s1),
            Arg::U64(s2),
            Arg::F32(scale),
        ];
        launch_typed(x, "copy_rows", suffix, LaunchGrid::each(packs), &args)?;
        Ok(y)
    }
}

/// Makes `x` contiguous. Up to three dimensions before the last may have any strides.
pub(crate) fn dense(x: &Tensor) -> Result<Tensor> {
    if x.is_contiguous() {
        return Ok(x.clone());
    }
    Strided::of(x)?.copy(x, 1.0)?.reshape(x.shape())
}

/// Splits `(rows, tokens, heads x width)` into contiguous `(rows, heads, tokens, width)`.
fn split(x: &Tensor, heads: usize) -> Result<Tensor> {
    let Strided {
        dims: [_, rows, tokens, width],
        strides: [_, row, token, last],
    } = Strided::of(x)?;
    let width = width / heads;
    let split = Strided {
        dims: [rows, heads, tokens, width],
        strides: [row, width, token, last],
    };
    split.copy(x, 1.0)
}

/// Attention of `(outer, rows, tokens, width)`, with the heads side by side in `width`, in pieces within
/// `limits`. All but the last dimension may have any strides.
pub(crate) fn attention(limits: SliceLimits, [q, k, v]: [&Tensor; 3], heads: usize) -> Result<Tensor> {
    let shape = q.shape();
    let flat = |x: &Tensor| {
        let (outer, rows, tokens, width) = x.dims4()?;
        if outer == 1 {
            x.squeeze(0)
        } else {
            dense(x)?.reshape((outer * rows, tokens, width))
        }
    };
    let flat = [flat(q)?, flat(k)?, flat(v)?];
    let copies = CopyOps { split, dense };
    attention_within(limits, scaled_dot_product, copies, flat.each_ref(), heads)?.reshape(shape)
}

/// Attention of `(rows, heads, tokens, head width)`.
fn scaled_dot_product(q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
    // As in the reference backend, the queries are scaled, which keeps the scores in the range of `f16`.
    #[expect(clippy::cast_possible_truncation, reason = "the kernel computes in f32")]
    let scale = (1.0 / (q.dim(D::Minus1)? as f64).sqrt()) as f32;
    let scores = Strided::of(q)?.copy(q, scale)?.matmul(&k.t()?)?;
    softmax(&scores)?;
    scores.matmul(v)
}

/// Softmax over the last dimension in place; no other tensor may share the storage of `x`.
fn softmax(x: &Tensor) -> Result<()> {
    /// Widest row that one warp computes; wider rows take a block.
    const NARROW: usize = 512;
    let width = x.dim(D::Minus1)?;
    let rows = x.elem_count() / width.max(1);
    if width <= NARROW {
        let args = [Arg::Tensor(x), Arg::U32(rows), Arg::U32(width)];
        launch_typed(x, "softmax_narrow", "", LaunchGrid::warps(rows), &args)
    } else {
        let (values, _) = vector_width(width, &[Some(x)]);
        let packs = width / values;
        let (kernel, columns, threads) = if values > 1 && packs <= 1024 {
            ("softmax_packs", packs, packs.next_multiple_of(32).min(256))
        } else {
            ("softmax_wide", width, 256)
        };
        let grid = LaunchGrid::new((rows, 1, 1), (u32::try_from(threads)?, 1, 1));
        launch_typed(x, kernel, "", grid, &[Arg::Tensor(x), Arg::U32(columns)])
    }
}
