//! The building blocks out of candle's tensor operations, for other devices than the CPU and other types than
//! `f32`; also what the CPU's own operations are tested against.
//!
//! Half types on the CPU are computed in `f32` and rounded once at the end, because candle's own way is not
//! fit for it: its `f16` product rounds the sums so far to `f16` every few hundred terms, and its softmax adds
//! up in the type itself, where a sum of `f16` ones stands still at 2048 and of `bf16` ones at 256. On CUDA the
//! products accumulate in `f32` as they are; that holds for convolutions too as long as candle is built without
//! its `cudnn` feature, whose `f16` convolution asks for `f16` sums.

mod split;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod threads;

use candle_core::{D, DType, Result, Tensor, bail};

use split::{Attention, Convolution, Limits, pieces};

/// The type to compute in.
fn wide(x: &Tensor) -> DType {
    if x.device().is_cpu() && matches!(x.dtype(), DType::F16 | DType::BF16) {
        DType::F32
    } else {
        x.dtype()
    }
}

/// A square convolution of `(images, input, h, w)` with bias.
pub(super) fn conv2d(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    stride: usize,
    padding: usize,
) -> Result<Tensor> {
    let launch = |x: &Tensor, weight: &Tensor, padding| x.conv2d(weight, padding, stride, 1, 1);
    conv2d_within(Limits::USUAL, launch, x, (weight, bias), stride, padding)
}

/// `launch` convolves a piece with the weights and some padding.
fn conv2d_within(
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
    let mut parts = Vec::new();
    for (first, count) in pieces(images, step.images) {
        let some = x.narrow(0, first, count)?.to_dtype(wide(x))?;
        let mut strips = Vec::new();
        for (row, rows) in pieces(sizes.height, step.rows) {
            let y = if rows == sizes.height {
                launch(&some, &weight, padding)?
            } else {
                let strip = padded_rows(&some, row * stride, (rows - 1) * stride + kernel, padding)?;
                launch(&strip, &weight, 0)?
            };
            strips.push(y.broadcast_add(&bias)?.to_dtype(x.dtype())?);
        }
        parts.push(joined(strips, 2)?);
    }
    joined(parts, 0)
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
pub(super) fn linear(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    x.to_dtype(wide(x))?
        .matmul(&weight.to_dtype(wide(x))?.t()?)?
        .to_dtype(x.dtype())
}

/// The exact GELU: candle's plain `gelu` is the tanh form.
pub(super) fn gelu(x: &Tensor) -> Result<Tensor> {
    if wide(x) != x.dtype() {
        return super::gelu(&x.to_dtype(wide(x))?)?.to_dtype(x.dtype());
    }
    x.gelu_erf()
}

/// `value x gelu(gate)`, as in a GEGLU.
pub(super) fn geglu(x: &Tensor) -> Result<Tensor> {
    if wide(x) != x.dtype() {
        return super::gelu::geglu(&x.to_dtype(wide(x))?)?.to_dtype(x.dtype());
    }
    let half = x.dim(D::Minus1)? / 2;
    let gate = x.narrow(D::Minus1, half, half)?.gelu_erf()?;
    x.narrow(D::Minus1, 0, half)? * gate
}

/// Attention on `(rows, tokens, width)`, see `attend`.
pub(super) fn attention(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize) -> Result<Tensor> {
    if wide(q) != q.dtype() {
        let widened = |x: &Tensor| x.to_dtype(wide(x))?.unsqueeze(0);
        let mixed = super::attend(&widened(q)?, &widened(k)?, &widened(v)?, heads)?;
        return mixed.squeeze(0)?.to_dtype(q.dtype());
    }
    attention_within(Limits::USUAL, scaled_dot_product, [q, k, v], heads)
}

/// `launch` is attention on a piece, `(rows, heads, tokens, head width)`.
fn attention_within(
    limits: Limits,
    launch: impl Fn(&Tensor, &Tensor, &Tensor) -> Result<Tensor>,
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
    let mut parts = Vec::new();
    for (row, row_count) in pieces(rows, step.rows) {
        let mut columns = Vec::new();
        for (head, head_count) in pieces(heads, step.heads) {
            let split = |x: &Tensor, (start, count): (usize, usize)| {
                x.narrow(0, row, row_count)?
                    .narrow(1, start, count)?
                    .narrow(2, head * head_width, head_count * head_width)?
                    .reshape((row_count, count, head_count, head_width))?
                    .transpose(1, 2)?
                    .contiguous()
            };
            let all_keys = (0, sizes.keys);
            let (k, v) = (split(k, all_keys)?, split(v, all_keys)?);
            let mut some = Vec::new();
            for (query, query_count) in pieces(queries, step.queries) {
                let mixed = launch(&split(q, (query, query_count))?, &k, &v)?;
                let together = (row_count, query_count, head_count * head_width);
                some.push(mixed.transpose(1, 2)?.reshape(together)?);
            }
            columns.push(joined(some, 1)?);
        }
        parts.push(joined(columns, 2)?);
    }
    joined(parts, 0)
}

/// Attention of `(rows, heads, tokens, head width)`.
fn scaled_dot_product(q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
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

/// Puts pieces together along `dim`; a single one is given back as it is.
fn joined(mut parts: Vec<Tensor>, dim: usize) -> Result<Tensor> {
    match parts.len() {
        1 => Ok(parts.remove(0)),
        _ => Tensor::cat(&parts, dim)?.contiguous(),
    }
}

/// Group norm over `(images, channels, h, w)` with `f32` statistics over every `images` consecutive images; `affine` is
/// the weight and bias of every channel. The result is rounded once.
pub(super) fn group_norm(
    x: &Tensor,
    images: usize,
    groups: usize,
    eps: f64,
    affine: (&Tensor, &Tensor),
) -> Result<Tensor> {
    let (total, channels, h, w) = x.dims4()?;
    let samples = total / images;
    let per_group = channels / groups * h * w;
    let grouped = x
        .to_dtype(DType::F32)?
        .reshape((samples, images, groups, per_group))?;
    let mean = grouped.mean_keepdim(3)?.mean_keepdim(1)?;
    let centred = grouped.broadcast_sub(&mean)?;
    drop(grouped);
    let variance = centred.sqr()?.mean_keepdim(3)?.mean_keepdim(1)?;
    let scale = (variance + eps)?.sqrt()?.recip()?;
    let normed = centred.broadcast_mul(&scale)?.reshape((total, channels, h, w))?;
    drop(centred);
    let per_channel = |values: &Tensor| values.to_dtype(DType::F32)?.reshape((1, channels, 1, 1));
    normed
        .broadcast_mul(&per_channel(affine.0)?)?
        .broadcast_add(&per_channel(affine.1)?)?
        .to_dtype(x.dtype())
}
