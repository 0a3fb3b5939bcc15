//! The building blocks out of candle's tensor operations, for other devices than the CPU and other types than
//! `f32`; also what the CPU's own operations are tested against.

use candle_core::{D, DType, Result, Tensor};

/// A square convolution of `(images, input, h, w)` with bias.
pub(super) fn conv2d(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    stride: usize,
    padding: usize,
) -> Result<Tensor> {
    x.conv2d(weight, padding, stride, 1, 1)?
        .broadcast_add(&bias.reshape((1, (), 1, 1))?)
}

/// `value x gelu(gate)`, as in a GEGLU.
pub(super) fn geglu(x: &Tensor) -> Result<Tensor> {
    let half = x.dim(D::Minus1)? / 2;
    let gate = x.narrow(D::Minus1, half, half)?.gelu_erf()?;
    x.narrow(D::Minus1, 0, half)? * gate
}

/// Most attention scores held at once; the rest is worked off piece by piece.
const MAX_SCORES: usize = 1 << 26;

/// Attention on `(rows, tokens, width)`, see `attend`.
pub(super) fn attention(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize) -> Result<Tensor> {
    let (rows, queries, width) = q.dims3()?;
    let keys = k.dim(1)?;
    let head_width = width / heads;
    let scale = 1.0 / (head_width as f64).sqrt();
    let at_once = (MAX_SCORES / (heads * queries * keys).max(1)).clamp(1, rows);
    let mut pieces = Vec::with_capacity(rows.div_ceil(at_once));
    for start in (0..rows).step_by(at_once) {
        let count = at_once.min(rows - start);
        let split = |x: &Tensor| -> Result<Tensor> {
            let (_, tokens, _) = x.dims3()?;
            x.narrow(0, start, count)?
                .reshape((count, tokens, heads, head_width))?
                .transpose(1, 2)?
                .contiguous()
        };
        // Scaling the queries keeps half-precision scores in range.
        let scores = (split(q)? * scale)?.matmul(&split(k)?.t()?)?;
        let weights = candle_nn::ops::softmax_last_dim(&scores)?;
        drop(scores);
        let mixed = weights.matmul(&split(v)?)?;
        drop(weights);
        pieces.push(mixed.transpose(1, 2)?.reshape((count, queries, width))?);
    }
    match pieces.len() {
        1 => Ok(pieces.remove(0)),
        _ => Tensor::cat(&pieces, 0),
    }
}

/// Group norm over `(images, channels, h, w)` with `f32` statistics over every `images` consecutive images; `affine` is
/// the weight and bias of every channel.
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
    let weight = affine.0.reshape((1, channels, 1, 1))?;
    let bias = affine.1.reshape((1, channels, 1, 1))?;
    normed
        .to_dtype(x.dtype())?
        .broadcast_mul(&weight)?
        .broadcast_add(&bias)
}
