//! The reference backend: the operations as candle's tensor operations. It serves every device and type that
//! the other backends do not, and they are tested against it.
//!
//! On the CPU half types are computed in `f32` and rounded once at the end, because candle's own operations
//! lose precision: its `f16` product rounds the partial sums to `f16` every few hundred terms, and its
//! softmax adds up in the type itself, where a sum of ones stops growing at 2048 in `f16` and at 256 in
//! `bf16`. On CUDA the products accumulate in `f32` anyway. That holds for convolutions too as long as candle
//! is built without its `cudnn` feature, whose `f16` convolution requests `f16` sums.

use candle_core::{D, DType, Result, Tensor, bail};

use super::piecewise::PiecewiseTensor;
use crate::slices::{
    AttentionShape, ConvolutionShape, ConvolutionSlice, GroupNormShape, GroupNormSlice, SliceLimits, pieces,
};

/// A slice of a group norm: first image and number of images, first group and number of groups.
type Slice = ((usize, usize), (usize, usize));

/// Returns the type that operations on `x` compute in: `f32` for half types on the CPU, otherwise the type of
/// `x`.
pub(crate) fn compute_dtype(x: &Tensor) -> DType {
    if x.device().is_cpu() && matches!(x.dtype(), DType::F16 | DType::BF16) {
        DType::F32
    } else {
        x.dtype()
    }
}

/// A square convolution of `(images, input, h, w)` with a bias, in pieces within `limits`.
pub(crate) fn conv2d(
    limits: SliceLimits,
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    stride: usize,
    padding: usize,
) -> Result<Tensor> {
    let launch = |x: &Tensor, weight: &Tensor, padding| x.conv2d(weight, padding, stride, 1, 1);
    conv2d_within(limits, launch, x, (weight, bias), stride, padding)
}

/// Returns the sizes of the convolution of `x`, `(images, input, h, w)`, with square `weight`, and its
/// largest slice within `limits`.
///
/// # Errors
/// Fails if not even one row of the result is within the limits.
pub(crate) fn conv2d_slice(
    limits: SliceLimits,
    x: &Tensor,
    weight: &Tensor,
    stride: usize,
    padding: usize,
) -> Result<(ConvolutionShape, ConvolutionSlice)> {
    let (images, input, h, w) = x.dims4()?;
    let (output, _, kernel, _) = weight.dims4()?;
    let result_side = |side: usize| (side + 2 * padding - kernel) / stride + 1;
    let sizes = ConvolutionShape {
        images,
        input,
        output,
        height: result_side(h),
        width: result_side(w),
        kernel,
    };
    match sizes.slice_within(limits) {
        Some(slice) => Ok((sizes, slice)),
        None => bail!("one row of a convolution is more than a launch can hold: {sizes:?}"),
    }
}

/// [`conv2d`], in which `launch` convolves a piece with the weights and some padding.
pub(crate) fn conv2d_within(
    limits: SliceLimits,
    launch: impl Fn(&Tensor, &Tensor, usize) -> Result<Tensor>,
    x: &Tensor,
    (weight, bias): (&Tensor, &Tensor),
    stride: usize,
    padding: usize,
) -> Result<Tensor> {
    let (sizes, step) = conv2d_slice(limits, x, weight, stride, padding)?;
    let ConvolutionShape {
        images,
        output,
        kernel,
        ..
    } = sizes;
    let weight = weight.to_dtype(compute_dtype(x))?;
    let bias = bias.to_dtype(compute_dtype(x))?.reshape((1, output, 1, 1))?;
    let mut whole = PiecewiseTensor::new((images, output, sizes.height, sizes.width));
    for (first, count) in pieces(images, step.images) {
        let some = x.narrow(0, first, count)?.to_dtype(compute_dtype(x))?;
        for (row, rows) in pieces(sizes.height, step.rows) {
            let y = if rows == sizes.height {
                launch(&some, &weight, padding)?
            } else {
                let strip = padded_rows(&some, row * stride, (rows - 1) * stride + kernel, padding)?;
                launch(&strip, &weight, 0)?
            };
            let y = y.broadcast_add(&bias)?.to_dtype(x.dtype())?;
            whole.write(y, |whole| whole.narrow(0, first, count), (2, row))?;
        }
    }
    whole.finish(x)
}

/// Returns rows `first..first + count` of `x` with a border of `padding` zeros on every side; row 0 is in the
/// border.
fn padded_rows(x: &Tensor, first: usize, count: usize, padding: usize) -> Result<Tensor> {
    let h = x.dim(2)?;
    let (start, end) = (first.max(padding), (first + count).min(h + padding));
    x.narrow(2, start - padding, end - start)?
        .pad_with_zeros(2, start - first, first + count - end)?
        .pad_with_zeros(3, padding, padding)
}

/// `x W^T` of `x`, `(rows, input)`, and `weight`, `(output, input)`.
pub(crate) fn linear(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    x.to_dtype(compute_dtype(x))?
        .matmul(&weight.to_dtype(compute_dtype(x))?.t()?)?
        .to_dtype(x.dtype())
}

/// The exact (erf) GELU; candle's plain `gelu` is the tanh approximation.
pub(crate) fn gelu(x: &Tensor) -> Result<Tensor> {
    x.gelu_erf()
}

/// `value x gelu(gate)` of `(.., 2 x width)`, with the value in the first half of the last dimension.
pub(crate) fn geglu(x: &Tensor) -> Result<Tensor> {
    let half = x.dim(D::Minus1)? / 2;
    let gate = x.narrow(D::Minus1, half, half)?.gelu_erf()?;
    x.narrow(D::Minus1, 0, half)? * gate
}

/// Scaled dot-product attention on `(rows, tokens, width)`, with the heads side by side in `width`, in pieces
/// within `limits`.
pub(crate) fn attention(
    limits: SliceLimits,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    heads: usize,
) -> Result<Tensor> {
    attention_within(limits, scaled_dot_product, COPY_OPS, [q, k, v], heads)
}

/// How a backend copies tensors that are not contiguous.
#[derive(Clone, Copy)]
pub(crate) struct CopyOps {
    /// Splits `(rows, tokens, heads x width)` into contiguous `(rows, heads, tokens, width)`.
    pub(crate) split: fn(&Tensor, usize) -> Result<Tensor>,
    /// Copies a tensor into contiguous memory, unless it is contiguous.
    pub(crate) dense: fn(&Tensor) -> Result<Tensor>,
}

/// Copies that use candle's own operations.
pub(crate) const COPY_OPS: CopyOps = CopyOps {
    split: |x, heads| {
        let (rows, tokens, width) = x.dims3()?;
        x.reshape((rows, tokens, heads, width / heads))?
            .transpose(1, 2)?
            .contiguous()
    },
    dense: Tensor::contiguous,
};

/// [`attention`], in which `launch` computes a piece, `(rows, heads, tokens, head width)`.
pub(crate) fn attention_within(
    limits: SliceLimits,
    launch: impl Fn(&Tensor, &Tensor, &Tensor) -> Result<Tensor>,
    copies: CopyOps,
    [q, k, v]: [&Tensor; 3],
    heads: usize,
) -> Result<Tensor> {
    let (rows, queries, width) = q.dims3()?;
    let sizes = AttentionShape {
        rows,
        heads,
        queries,
        keys: k.dim(1)?,
    };
    let Some(step) = sizes.slice_within(limits) else {
        bail!("the scores of one query are more than a launch can hold: {sizes:?}");
    };
    let head_width = width / heads;
    let mut whole = PiecewiseTensor::new((rows, queries, width));
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
                // Fewer than all queries are taken only of a single row, so that this view is contiguous.
                let part = |whole: &Tensor| whole.narrow(0, row, row_count)?.narrow(1, query, query_count);
                whole.write(mixed, part, (2, head * head_width))?;
            }
        }
    }
    whole.finish(q)
}

/// Scaled dot-product attention of `(rows, heads, tokens, head width)`, which materialises the scores.
pub(crate) fn scaled_dot_product(q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
    let computed = compute_dtype(q);
    // The queries are scaled instead of the scores, which keeps half-precision scores in range. They are
    // scaled in `f32`, because the factor is not a half-precision number.
    let scale = 1.0 / (q.dim(D::Minus1)? as f64).sqrt();
    let q_scaled = (q.to_dtype(DType::F32)? * scale)?.to_dtype(computed)?;
    let scores = q_scaled.matmul(&k.to_dtype(computed)?.t()?)?;
    let weights = softmax(&scores, SOFTMAX_AT_ONCE)?;
    drop(scores);
    weights.matmul(&v.to_dtype(computed)?)?.to_dtype(q.dtype())
}

/// The scores that [`softmax`] converts to `f32` at once: 16 MiB of them.
pub(crate) const SOFTMAX_AT_ONCE: usize = 1 << 22;

/// Softmax over the last dimension, in `f32` inside: candle's own kernel for half types rounds each exponential and the
/// sum's reciprocal, which scales whole rows by up to 5e-4 in `f16` and 4e-3 in `bf16`. Scores in a half type are
/// converted `at_once` values at a time, so that the copies take little memory.
fn softmax(scores: &Tensor, at_once: usize) -> Result<Tensor> {
    if scores.dtype() == DType::F32 {
        return candle_nn::ops::softmax_last_dim(scores);
    }
    let (shape, dtype) = (scores.shape().clone(), scores.dtype());
    let keys = scores.dim(D::Minus1)?;
    let rows = scores.elem_count() / keys.max(1);
    let scores = scores.reshape((rows, keys))?;
    let mut whole = PiecewiseTensor::new((rows, keys));
    for (first, count) in pieces(rows, (at_once / keys.max(1)).max(1)) {
        let some = scores.narrow(0, first, count)?.to_dtype(DType::F32)?;
        let weights = candle_nn::ops::softmax_last_dim(&some)?.to_dtype(dtype)?;
        whole.write(weights, |whole| Ok(whole.clone()), (0, first))?;
    }
    whole.finish(&scores)?.reshape(shape)
}

/// The parameters of a group norm.
#[derive(Clone, Copy)]
pub(crate) struct NormSpec<'a> {
    /// Number of consecutive images whose statistics are taken together.
    pub(crate) images: usize,
    /// Number of groups that the channels are divided into.
    pub(crate) groups: usize,
    /// Term that is added to the variance.
    pub(crate) eps: f64,
    /// Weight and bias of every channel, `(channels)` each.
    pub(crate) affine: (&'a Tensor, &'a Tensor),
    /// Whether `SiLU` is applied to the result.
    pub(crate) silu: bool,
}

/// Group norm over `(images, channels, h, w)` with `f32` statistics, in slices within `limits`. The norm is
/// rounded once, then the activation.
pub(crate) fn group_norm(limits: SliceLimits, x: &Tensor, spec: NormSpec) -> Result<Tensor> {
    let (total, channels, h, w) = x.dims4()?;
    let sizes = GroupNormShape {
        images: total,
        groups: spec.groups,
        per_group: channels / spec.groups * h * w,
    };
    let step = sizes.slice_within(limits);
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

/// [`group_norm_at_once`] a slice at a time, by the same operations on the same rows of numbers, so that the
/// bits are equal. It passes over the slices three times: for the means, for the variances, and for the
/// result.
fn group_norm_in_slices(
    x: &Tensor,
    spec: NormSpec,
    sizes: GroupNormShape,
    step: GroupNormSlice,
) -> Result<Tensor> {
    let (total, channels, h, w) = x.dims4()?;
    let GroupNormShape {
        groups, per_group, ..
    } = sizes;
    let group_channels = channels / groups;
    let slices: Vec<_> = pieces(total, step.images)
        .flat_map(|images| pieces(groups, step.groups).map(move |groups| (images, groups)))
        .collect();
    let grouped = x.reshape((total, groups, per_group))?;
    let slice = |(images, groups): Slice| {
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
    // Means of a term for each image and group, equal for all images of a sample.
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

    let mut whole = PiecewiseTensor::new((total, channels, h * w));
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
        whole.write(y, |whole| whole.narrow(0, images.0, images.1), (1, first))?;
    }
    whole.finish(x)?.reshape((total, channels, h, w))
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn softmax_of_a_half_type_is_rounded_once_whole_and_in_pieces() {
        let values: Vec<f32> = (0..6 * 700).map(|i| (i * 37 % 101) as f32 / 30.0).collect();
        for dtype in [DType::F16, DType::BF16] {
            let scores = Tensor::from_vec(values.clone(), (2, 3, 700), &Device::Cpu).unwrap();
            let scores = scores.to_dtype(dtype).unwrap();
            let wide = scores.to_dtype(DType::F32).unwrap();
            let expected = candle_nn::ops::softmax_last_dim(&wide)
                .unwrap()
                .to_dtype(dtype)
                .unwrap();
            let list = |x: &Tensor| {
                let x = x.to_dtype(DType::F32).unwrap();
                x.flatten_all().unwrap().to_vec1::<f32>().unwrap()
            };
            for at_once in [1, 1500, SOFTMAX_AT_ONCE] {
                let weights = softmax(&scores, at_once).unwrap();
                assert_eq!((weights.dims(), weights.dtype()), (&[2, 3, 700][..], dtype));
                assert!(list(&weights) == list(&expected), "{dtype:?}, {at_once} at once");
            }
            // What candle does in the type itself is not the same.
            let rounded = candle_nn::ops::softmax_last_dim(&scores).unwrap();
            assert!(list(&rounded) != list(&expected), "{dtype:?}");
        }
    }
}
