//! Attention over heads that lie side by side, with the scores written out.

use candle_core::{D, Result, Tensor, bail};

use super::launch::{Arg, Grid, output, pack, start};
use crate::kernels::reference::{Copies, attention_within};
use crate::slices::Limits;

/// A tensor seen in four dimensions, whose last one has no gaps.
#[derive(Clone, Copy)]
struct Strided {
    dims: [usize; 4],
    strides: [usize; 4],
}

impl Strided {
    fn of(x: &Tensor) -> Result<Self> {
        let (mut dims, mut strides) = ([1; 4], [0; 4]);
        let Some(first) = 4_usize.checked_sub(x.rank()) else {
            bail!("{:?} has more than four dimensions", x.dims());
        };
        dims[first..].copy_from_slice(x.dims());
        strides[first..].copy_from_slice(x.stride());
        Ok(Self { dims, strides })
    }

    /// `x`, which is seen so, without gaps, each value times `scale`.
    fn copy(self, x: &Tensor, scale: f32) -> Result<Tensor> {
        let Self {
            dims: [n0, n1, n2, width],
            strides: [s0, s1, s2, last],
        } = self;
        if last != 1 && width != 1 {
            bail!("the values of a row lie {last} apart");
        }
        let (values, ending) = pack(width, &[Some(x)]);
        let apart = [s0, s1, s2].iter().all(|step| step.is_multiple_of(values));
        let (values, ending) = if apart { (values, ending) } else { (1, "") };
        let y = output((n0, n1, n2, width), x)?;
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
        start(x, "copy_rows", ending, Grid::each(packs), &args)?;
        Ok(y)
    }
}

/// `x` without gaps. Up to three dimensions before the last may lie anyhow.
pub(crate) fn dense(x: &Tensor) -> Result<Tensor> {
    if x.is_contiguous() {
        return Ok(x.clone());
    }
    Strided::of(x)?.copy(x, 1.0)?.reshape(x.shape())
}

/// `(rows, tokens, heads x width)` to `(rows, heads, tokens, width)`.
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

/// Attention of `(outer, rows, tokens, width)`; all but the last dimension may lie anyhow.
pub(crate) fn attention(limits: Limits, [q, k, v]: [&Tensor; 3], heads: usize) -> Result<Tensor> {
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
    let copies = Copies { split, dense };
    attention_within(limits, scaled_dot_product, copies, flat.each_ref(), heads)?.reshape(shape)
}

/// Attention of `(rows, heads, tokens, head width)`.
fn scaled_dot_product(q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
    // As in the reference: scaled queries keep the scores in the range of `f16`.
    #[expect(clippy::cast_possible_truncation, reason = "what the kernel computes in")]
    let scale = (1.0 / (q.dim(D::Minus1)? as f64).sqrt()) as f32;
    let scores = Strided::of(q)?.copy(q, scale)?.matmul(&k.t()?)?;
    softmax(&scores)?;
    scores.matmul(v)
}

/// Softmax over the last dimension in place; `x` must be no one else's.
fn softmax(x: &Tensor) -> Result<()> {
    /// Rows up to this width are a warp's.
    const NARROW: usize = 512;
    let width = x.dim(D::Minus1)?;
    let rows = x.elem_count() / width.max(1);
    if width <= NARROW {
        let args = [Arg::Tensor(x), Arg::U32(rows), Arg::U32(width)];
        start(x, "softmax_narrow", "", Grid::warps(rows), &args)
    } else {
        let (values, _) = pack(width, &[Some(x)]);
        let packs = width / values;
        let (kernel, columns, threads) = if values > 1 && packs <= 1024 {
            ("softmax_packs", packs, packs.next_multiple_of(32).min(256))
        } else {
            ("softmax_wide", width, 256)
        };
        let grid = Grid {
            blocks: (rows, 1, 1),
            threads: (u32::try_from(threads)?, 1, 1),
        };
        start(x, kernel, "", grid, &[Arg::Tensor(x), Arg::U32(columns)])
    }
}
