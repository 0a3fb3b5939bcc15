//! The reference backend: the building blocks out of candle's tensor operations, for other devices than the CPU and other types than
//! `f32`; also what the CPU's own operations are tested against.
//!
//! Half types on the CPU are computed in `f32` and rounded once at the end, because candle's own way is not
//! fit for it: its `f16` product rounds the sums so far to `f16` every few hundred terms, and its softmax adds
//! up in the type itself, where a sum of `f16` ones stands still at 2048 and of `bf16` ones at 256. On CUDA the
//! products accumulate in `f32` as they are; that holds for convolutions too as long as candle is built without
//! its `cudnn` feature, whose `f16` convolution asks for `f16` sums.

use candle_core::{D, DType, Result, Tensor, bail};

use super::whole::Whole;
use crate::slices::{Attention, Convolution, Limits, Norm, NormStep, pieces};

/// First and number of images, first and number of groups.
type Slice = ((usize, usize), (usize, usize));

/// The type to compute in.
pub(crate) fn wide(x: &Tensor) -> DType {
    if x.device().is_cpu() && matches!(x.dtype(), DType::F16 | DType::BF16) {
        DType::F32
    } else {
        x.dtype()
    }
}

/// A square convolution of `(images, input, h, w)` with bias.
pub(crate) fn conv2d(
    limits: Limits,
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    stride: usize,
    padding: usize,
) -> Result<Tensor> {
    let launch = |x: &Tensor, weight: &Tensor, padding| x.conv2d(weight, padding, stride, 1, 1);
    conv2d_within(limits, launch, x, (weight, bias), stride, padding)
}

/// `launch` convolves a piece with the weights and some padding.
pub(crate) fn conv2d_within(
    limits: Limits,
    launch: impl Fn(&Tensor, &Tensor, usize) -> Result<Tensor>,
    x: &Tensor,
    (weight, bias): (&Tensor, &Tensor),
    stride: usize,
    padding: usize,
) -> Result<Tensor> {
    let (images, input, h, w) = x.dims4()?;
    let (output, _, kernel, _) = weight.dims4()?;
    let reach = |side: usize| (side + 2 * padding - kernel) / stride + 1;
    let sizes = Convolution {
        images,
        input,
        output,
        height: reach(h),
        width: reach(w),
        kernel,
    };
    let Some(step) = sizes.step(limits) else {
        bail!("one row of a convolution is more than a launch can hold: {sizes:?}");
    };
    let weight = weight.to_dtype(wide(x))?;
    let bias = bias.to_dtype(wide(x))?.reshape((1, output, 1, 1))?;
    let mut whole = Whole::new((images, output, sizes.height, sizes.width));
    for (first, count) in pieces(images, step.images) {
        let some = x.narrow(0, first, count)?.to_dtype(wide(x))?;
        for (row, rows) in pieces(sizes.height, step.rows) {
            let y = if rows == sizes.height {
                launch(&some, &weight, padding)?
            } else {
                let strip = padded_rows(&some, row * stride, (rows - 1) * stride + kernel, padding)?;
                launch(&strip, &weight, 0)?
            };
            let y = y.broadcast_add(&bias)?.to_dtype(x.dtype())?;
            whole.put(y, |whole| whole.narrow(0, first, count), (2, row))?;
        }
    }
    whole.finish(x)
}

/// Rows `first .. first + count` of `x` as they would be with a zero border of `padding` on every side.
fn padded_rows(x: &Tensor, first: usize, count: usize, padding: usize) -> Result<Tensor> {
    let h = x.dim(2)?;
    let (start, end) = (first.max(padding), (first + count).min(h + padding));
    x.narrow(2, start - padding, end - start)?
        .pad_with_zeros(2, start - first, first + count - end)?
        .pad_with_zeros(3, padding, padding)
}

/// `x W^T` of `(rows, input)` and `(output, input)`.
pub(crate) fn linear(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    x.to_dtype(wide(x))?
        .matmul(&weight.to_dtype(wide(x))?.t()?)?
        .to_dtype(x.dtype())
}

/// The exact GELU: candle's plain `gelu` is the tanh form.
pub(crate) fn gelu(x: &Tensor) -> Result<Tensor> {
    x.gelu_erf()
}

/// `value x gelu(gate)`, as in a GEGLU.
pub(crate) fn geglu(x: &Tensor) -> Result<Tensor> {
    let half = x.dim(D::Minus1)? / 2;
    let gate = x.narrow(D::Minus1, half, half)?.gelu_erf()?;
    x.narrow(D::Minus1, 0, half)? * gate
}

/// Attention on `(rows, tokens, width)`, see `attend`.
pub(crate) fn attention(limits: Limits, q: &Tensor, k: &Tensor, v: &Tensor, heads: usize) -> Result<Tensor> {
    attention_within(limits, scaled_dot_product, COPIES, [q, k, v], heads)
}

/// How a backend copies what has gaps.
#[derive(Clone, Copy)]
pub(crate) struct Copies {
    /// `(rows, tokens, heads x width)` to `(rows, heads, tokens, width)` without gaps.
    pub(crate) split: fn(&Tensor, usize) -> Result<Tensor>,
    /// The same values in the same order without gaps.
    pub(crate) dense: fn(&Tensor) -> Result<Tensor>,
}

/// Copies by candle's own operations.
pub(crate) const COPIES: Copies = Copies {
    split: |x, heads| {
        let (rows, tokens, width) = x.dims3()?;
        x.reshape((rows, tokens, heads, width / heads))?
            .transpose(1, 2)?
            .contiguous()
    },
    dense: Tensor::contiguous,
};

/// `launch` is attention on a piece, `(rows, heads, tokens, head width)`.
pub(crate) fn attention_within(
    limits: Limits,
    launch: impl Fn(&Tensor, &Tensor, &Tensor) -> Result<Tensor>,
    copies: Copies,
    [q, k, v]: [&Tensor; 3],
    heads: usize,
) -> Result<Tensor> {
    let (rows, queries, width) = q.dims3()?;
    let sizes = Attention {
        rows,
        heads,
        queries,
        keys: k.dim(1)?,
    };
    let Some(step) = sizes.step(limits) else {
        bail!("the scores of one query are more than a launch can hold: {sizes:?}");
    };
    let head_width = width / heads;
    let mut whole = Whole::new((rows, queries, width));
    for (row, row_count) in pieces(rows, step.rows) {
        for (head, head_count) in pieces(heads, step.heads) {
            let split = |x: &Tensor, (start, count): (usize, usize)| {
                let some = x.narrow(0, row, row_count)?.narrow(1, start, count)?.narrow(
                    2,
                    head * head_width,
                    head_count * head_width,
                )?;
                (copies.split)(&some, head_count)
            };
            let all_keys = (0, sizes.keys);
            let (k, v) = (split(k, all_keys)?, split(v, all_keys)?);
            for (query, query_count) in pieces(queries, step.queries) {
                let mixed = launch(&split(q, (query, query_count))?, &k, &v)?;
                let together = (row_count, query_count, head_count * head_width);
                let mixed = (copies.dense)(&mixed.transpose(1, 2)?)?.reshape(together)?;
                // Fewer than all queries are taken of a single row alone, so that this part of it is contiguous.
                let part = |whole: &Tensor| whole.narrow(0, row, row_count)?.narrow(1, query, query_count);
                whole.put(mixed, part, (2, head * head_width))?;
            }
        }
    }
    whole.finish(q)
}

/// Attention of `(rows, heads, tokens, head width)`.
pub(crate) fn scaled_dot_product(q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
    let computed = wide(q);
    // Scaling the queries, not the scores, keeps half-precision scores in range; the factor itself is not a
    // half-precision number.
    let scale = 1.0 / (q.dim(D::Minus1)? as f64).sqrt();
    let q_scaled = (q.to_dtype(DType::F32)? * scale)?.to_dtype(computed)?;
    let scores = q_scaled.matmul(&k.to_dtype(computed)?.t()?)?;
    let weights = candle_nn::ops::softmax_last_dim(&scores)?;
    drop(scores);
    weights.matmul(&v.to_dtype(computed)?)?.to_dtype(q.dtype())
}

/// What a group norm is told.
#[derive(Clone, Copy)]
pub(crate) struct NormSpec<'a> {
    /// Consecutive images whose statistics are taken together.
    pub(crate) images: usize,
    pub(crate) groups: usize,
    pub(crate) eps: f64,
    /// Weight and bias of every channel.
    pub(crate) affine: (&'a Tensor, &'a Tensor),
    /// Whether `SiLU` follows.
    pub(crate) silu: bool,
}

/// Group norm over `(images, channels, h, w)` with `f32` statistics. The norm is rounded once, then the activation.
pub(crate) fn group_norm(limits: Limits, x: &Tensor, spec: NormSpec) -> Result<Tensor> {
    let (total, channels, h, w) = x.dims4()?;
    let sizes = Norm {
        images: total,
        groups: spec.groups,
        per_group: channels / spec.groups * h * w,
    };
    let step = sizes.step(limits);
    if (step.images, step.groups) == (total, spec.groups) {
        group_norm_at_once(x, spec)
    } else {
        group_norm_in_slices(x, spec, sizes, step)
    }
}

fn group_norm_at_once(x: &Tensor, spec: NormSpec) -> Result<Tensor> {
    let (total, channels, h, w) = x.dims4()?;
    let (samples, per_group) = (total / spec.images, channels / spec.groups * h * w);
    let mut y = x
        .to_dtype(DType::F32)?
        .reshape((samples, spec.images, spec.groups, per_group))?;
    let mean = y.mean_keepdim(3)?.mean_keepdim(1)?;
    y = y.broadcast_sub(&mean)?;
    let variance = y.sqr()?.mean_keepdim(3)?.mean_keepdim(1)?;
    let scale = (variance + spec.eps)?.sqrt()?.recip()?;
    y = y.broadcast_mul(&scale)?.reshape((total, channels, h, w))?;
    let per_channel = |values: &Tensor| values.to_dtype(DType::F32)?.reshape((1, channels, 1, 1));
    y = y.broadcast_mul(&per_channel(spec.affine.0)?)?;
    y = y.broadcast_add(&per_channel(spec.affine.1)?)?;
    y = y.to_dtype(x.dtype())?;
    if spec.silu { y.silu() } else { Ok(y) }
}

/// The same operations on the same rows of numbers as [`group_norm_at_once`], a slice at a time: once for the means, once
/// for the variances, once for the result.
fn group_norm_in_slices(x: &Tensor, spec: NormSpec, sizes: Norm, step: NormStep) -> Result<Tensor> {
    let (total, channels, h, w) = x.dims4()?;
    let Norm {
        groups, per_group, ..
    } = sizes;
    let group_channels = channels / groups;
    let slices: Vec<_> = pieces(total, step.images)
        .flat_map(|images| pieces(groups, step.groups).map(move |groups| (images, groups)))
        .collect();
    let grouped = x.reshape((total, groups, per_group))?;
    let slice = |(images, groups): ((usize, usize), (usize, usize))| {
        grouped
            .narrow(0, images.0, images.1)?
            .narrow(1, groups.0, groups.1)?
            .to_dtype(DType::F32)
    };
    let part = |values: &Tensor, (images, groups): Slice| {
        values
            .narrow(0, images.0, images.1)?
            .narrow(1, groups.0, groups.1)
    };
    // One number an image and group, the same for all images of a sample.
    let means = |term: &dyn Fn(Tensor, Slice) -> Result<Tensor>| {
        let each = Tensor::zeros((total, groups, 1), DType::F32, x.device())?;
        for &at in &slices {
            let mean = term(slice(at)?, at)?.mean_keepdim(2)?;
            let (images, groups) = at;
            each.narrow(0, images.0, images.1)?
                .slice_set(&mean, 1, groups.0)?;
        }
        let (samples, apart) = (total / spec.images, (total, groups, 1));
        each.reshape((samples, spec.images, groups, 1))?
            .mean_keepdim(1)?
            .broadcast_as((samples, spec.images, groups, 1))?
            .reshape(apart)
    };
    let mean = means(&|values, _| Ok(values))?;
    let variance = means(&|values, at| values.broadcast_sub(&part(&mean, at)?)?.sqr())?;
    let scale = (variance + spec.eps)?.sqrt()?.recip()?;
    let per_channel = |values: &Tensor| values.to_dtype(DType::F32)?.reshape((1, channels, 1));
    let (weight, bias) = (per_channel(spec.affine.0)?, per_channel(spec.affine.1)?);

    let mut whole = Whole::new((total, channels, h * w));
    for &at in &slices {
        let mut y = slice(at)?;
        y = y.broadcast_sub(&part(&mean, at)?)?;
        y = y.broadcast_mul(&part(&scale, at)?)?;
        let (images, groups) = at;
        let (first, count) = (groups.0 * group_channels, groups.1 * group_channels);
        y = y.reshape((images.1, count, h * w))?;
        y = y.broadcast_mul(&weight.narrow(1, first, count)?)?;
        y = y.broadcast_add(&bias.narrow(1, first, count)?)?;
        y = y.to_dtype(x.dtype())?;
        if spec.silu {
            y = y.silu()?;
        }
        whole.put(y, |whole| whole.narrow(0, images.0, images.1), (1, first))?;
    }
    whole.finish(x)?.reshape((total, channels, h, w))
}
