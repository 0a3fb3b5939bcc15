//! Operations of our own on CUDA: those that only move and combine values, each in one pass over memory. Products are
//! cuBLAS's. Every value is computed in `f32` and rounded once; results depend on the inputs and the shapes alone.
//!
//! The kernels are in `kernels.cu`. `check` compares each of them with the reference backend on the device itself.

mod check;
mod launch;

use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::{D, Device, Result, Tensor, bail};

use self::launch::{Arg, Grid, launch, output, output_as, suffix};
use super::Whole;
use super::reference::{Copies, NormSpec, attention_within};
use crate::slices::{Convolution, Limits, pieces};

pub use check::{KernelCheck, check_kernels};

/// Most values of a group that one block of a group norm reads.
const NORM_PIECE: usize = 8192;
/// Fewer places than this in a picture are convolved together with those of all pictures: one product instead of many small
/// ones.
const PLACES_APART: usize = 256;

/// Whether the kernels may be used: they are not where `check` found one that is wrong.
static TRUSTED: AtomicBool = AtomicBool::new(true);

/// Whether the kernels of this build serve tensors on CUDA; they do not after [`check_kernels`] found one that is wrong.
pub fn kernels_serve() -> bool {
    TRUSTED.load(Ordering::Relaxed)
}

/// Whether these kernels can work on `x`.
pub(crate) fn serves(x: &Tensor) -> bool {
    matches!(x.device(), Device::Cuda(_)) && suffix(x.dtype()).is_some() && kernels_serve()
}

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

/// Values that one thread moves at once, and the ending of the kernel's name. 16 bytes, where every row of `width` values
/// and every tensor begins on a multiple of them.
fn pack(width: usize, tensors: &[Option<&Tensor>]) -> (usize, &'static str) {
    let Some(first) = tensors.iter().flatten().next() else {
        return (1, "");
    };
    let values = 16 / first.dtype().size_in_bytes();
    let aligned = |tensor: &&Tensor| tensor.layout().start_offset().is_multiple_of(values);
    if width.is_multiple_of(values) && tensors.iter().flatten().all(aligned) {
        (values, "_v")
    } else {
        (1, "")
    }
}

fn start(x: &Tensor, kernel: &str, ending: &str, grid: Grid, args: &[Arg]) -> Result<()> {
    let Some(dtype) = suffix(x.dtype()) else {
        bail!("there is no `{kernel}` for {:?}", x.dtype());
    };
    launch(x, &format!("{kernel}_{dtype}{ending}"), grid, args)
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
fn finish_planes(y: &Tensor, finish: Finish) -> Result<()> {
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

/// A square convolution of `(images, input, h, w)`, and what follows it.
pub(crate) fn conv2d(
    limits: Limits,
    x: &Tensor,
    weight: &Tensor,
    finish: Finish,
    stride: usize,
    padding: usize,
) -> Result<Tensor> {
    let x = x.contiguous()?;
    let (images, input, h, w) = x.dims4()?;
    let (channels, _, kernel, _) = weight.dims4()?;
    let reach = |side: usize| (side + 2 * padding - kernel) / stride + 1;
    let sizes = Convolution {
        images,
        input,
        output: channels,
        height: reach(h),
        width: reach(w),
        kernel,
    };
    let Some(step) = sizes.step(limits) else {
        bail!("one row of a convolution is more than a launch can hold: {sizes:?}");
    };
    let depth = input * kernel * kernel;
    let weight = weight.reshape((channels, depth))?;
    let patches = Patches {
        sizes,
        from: (h, w),
        stride,
        padding,
    };
    let mut whole = Whole::new((images, channels, sizes.height, sizes.width));
    for (first, count) in pieces(images, step.images) {
        let some = x.narrow(0, first, count)?;
        for (row, rows) in pieces(sizes.height, step.rows) {
            let places = rows * sizes.width;
            let y = if places < PLACES_APART && count > 1 {
                let columns = patches.laid_out(&some, row, rows, Order::WeightFirst)?;
                planes_of_rows(&weight.matmul(&columns)?, channels, count)?
            } else {
                let columns = if (kernel, stride, padding) == (1, 1, 0) && rows == sizes.height {
                    some.reshape((count, depth, places))?
                } else {
                    patches.laid_out(&some, row, rows, Order::ImageFirst)?
                };
                weight.broadcast_as((count, channels, depth))?.matmul(&columns)?
            };
            let y = y.reshape((count, channels, rows, sizes.width))?;
            whole.put(y, |whole| whole.narrow(0, first, count), (2, row))?;
        }
    }
    let whole = whole.finish(&x)?;
    finish_planes(&whole, finish)?;
    Ok(whole)
}

/// The inputs under the weights of a convolution.
struct Patches {
    sizes: Convolution,
    /// Height and width of the input.
    from: (usize, usize),
    stride: usize,
    padding: usize,
}

/// How patches lie: `(images, weights, places)`, or `(weights, images x places)`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    ImageFirst,
    WeightFirst,
}

impl Patches {
    /// Those of `rows` rows of the result, from `row` on.
    fn laid_out(&self, x: &Tensor, row: usize, rows: usize, order: Order) -> Result<Tensor> {
        let Convolution {
            input, width, kernel, ..
        } = self.sizes;
        let images = x.dim(0)?;
        let (places, depth) = (rows * width, input * kernel * kernel);
        let (columns, step_weight, step_image) = match order {
            Order::ImageFirst => (output((images, depth, places), x)?, places, depth * places),
            Order::WeightFirst => (output((depth, images * places), x)?, images * places, places),
        };
        let (values, _) = pack(width, &[Some(x)]);
        if values > 1 && (kernel, self.stride, self.padding) == (3, 1, 1) {
            let packs = places / values;
            let args = [
                Arg::Tensor(&columns),
                Arg::Tensor(x),
                Arg::U32(input),
                Arg::U32(self.from.0),
                Arg::U32(self.from.1),
                Arg::U32(row),
                Arg::U32(packs),
                Arg::U64(step_weight),
                Arg::U64(step_image),
            ];
            let grid = Grid {
                blocks: (packs.div_ceil(128), input, images),
                threads: (128, 1, 1),
            };
            start(x, "im2col_3x3", "", grid, &args)?;
            return Ok(columns);
        }
        let grid = Grid {
            blocks: (places.div_ceil(256), input, images),
            threads: (256, 1, 1),
        };
        let args = [
            Arg::Tensor(&columns),
            Arg::Tensor(x),
            Arg::U32(input),
            Arg::U32(self.from.0),
            Arg::U32(self.from.1),
            Arg::U32(width),
            Arg::U32(row),
            Arg::U32(places),
            Arg::U32(kernel),
            Arg::U32(self.stride),
            Arg::U32(self.padding),
            Arg::U64(step_weight),
            Arg::U64(step_image),
        ];
        start(x, "im2col", "", grid, &args)?;
        Ok(columns)
    }
}

/// `(channels, images x places)` to `(images, channels, places)`.
fn planes_of_rows(x: &Tensor, channels: usize, images: usize) -> Result<Tensor> {
    let places = x.elem_count() / (channels * images);
    let y = output((images, channels, places), x)?;
    let (values, ending) = pack(places, &[Some(x)]);
    let packs = x.elem_count() / values;
    let args = [
        Arg::Tensor(&y),
        Arg::Tensor(x),
        Arg::U32(packs),
        Arg::U32(places / values),
        Arg::U32(channels),
        Arg::U32(images),
    ];
    start(x, "planes_of_rows", ending, Grid::each(packs), &args)?;
    Ok(y)
}

/// Group norm over `(images, channels, h, w)`.
pub(crate) fn group_norm(x: &Tensor, spec: NormSpec) -> Result<Tensor> {
    let x = x.contiguous()?;
    let (total, channels, h, w) = x.dims4()?;
    let group_values = channels / spec.groups * h * w;
    let pieces = group_values.div_ceil(NORM_PIECE);
    let samples = total / spec.images;
    let dtype = candle_core::DType::F32;
    let parts = output_as((total * spec.groups, pieces, 2), dtype, &x)?;
    let grid = Grid {
        blocks: (pieces, total * spec.groups, 1),
        threads: (256, 1, 1),
    };
    let args = [
        Arg::Tensor(&parts),
        Arg::Tensor(&x),
        Arg::U32(group_values),
        Arg::U32(NORM_PIECE),
    ];
    let (_, ending) = pack(group_values, &[Some(&x)]);
    start(&x, "group_norm_pieces", ending, grid, &args)?;

    let stats = output_as((samples, spec.groups, 2), dtype, &x)?;
    let grid = Grid {
        blocks: (spec.groups, samples, 1),
        threads: (32, 1, 1),
    };
    #[expect(clippy::cast_possible_truncation, reason = "what the kernel computes in")]
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

    let y = output(x.shape(), &x)?;
    let (values, ending) = pack(h * w, &[Some(&x)]);
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
    start(&x, "group_norm_apply", ending, Grid::each(packs), &args)?;
    Ok(y)
}

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

/// Norm over the last dimension.
pub(crate) fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f32) -> Result<Tensor> {
    let x = x.contiguous()?;
    let width = x.dim(D::Minus1)?;
    let rows = x.elem_count() / width.max(1);
    let y = output(x.shape(), &x)?;
    let (values, _) = pack(width, &[Some(&x), Some(weight), Some(bias)]);
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
    start(&x, kernel, "", Grid::warps(rows), &args)?;
    Ok(y)
}

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
