//! The reference operations on CUDA, in a half type with `f32` statistics: what each tensor operation allocates.
//!
//! The kernels of this crate need less: they add in place, and norm without copies. These figures are kept for both, since
//! they bound what the reference needs if the kernels are found wrong, and since with the kernels a GPU's pool came to 4 to
//! 12 % less than the whole prediction; see `measured.json` beside the prediction.

use super::figures::{Details, OpMemory, bytes};
use crate::hooks::Op;
use crate::slices::{Attention, Convolution, Limits, Norm, feed_forward_rows};

const F32: usize = 4;

pub(super) fn op_memory(op: Op, details: Details, each: usize, limits: Limits) -> OpMemory {
    let kept = bytes(op.output_elements(), each);
    let added = if details.addends > 0 { 2 * kept } else { kept };
    let peak = match op {
        Op::Linear { .. } | Op::Copy { .. } => added,
        Op::Conv2d { sizes, stride } => convolution(sizes, stride, kept, each, limits).max(added),
        Op::Attention { sizes, width } => attention(sizes, width, details.across, each, limits),
        Op::GroupNorm {
            images,
            channels,
            area,
            ..
        } => {
            let groups = details.groups.max(1);
            let sizes = Norm {
                images,
                groups,
                per_group: channels / groups * area,
            };
            norm(sizes, kept, limits)
        }
        // Gate and result.
        Op::Geglu { .. } => 2 * kept,
        Op::LayerNorm { .. } => kept,
    };
    OpMemory { peak, kept }
}

/// Patches, their product, the product in the usual order: for a piece at a time, and the whole result where there are
/// several.
fn convolution(sizes: Convolution, stride: usize, result: u64, each: usize, limits: Limits) -> u64 {
    let Convolution {
        images,
        input,
        output,
        height,
        width,
        kernel,
    } = sizes;
    let Some(step) = sizes.step(limits) else {
        return u64::MAX;
    };
    let pixels = step.images * step.rows * width;
    let columns = bytes(pixels * input * kernel * kernel, each);
    let piece = bytes(pixels * output, each);
    let all = (step.images, step.rows) == (images, height);
    let whole = if all { 0 } else { result };
    // A strip of a picture is copied with its border.
    let strip = if step.rows < height {
        let rows = (step.rows - 1) * stride + kernel;
        2 * bytes(input * rows * (width * stride + 2), each)
    } else {
        0
    };
    whole + strip + columns + 2 * piece
}

/// Of a piece at a time: heads side by side split up, scores in two copies while they are normed, the mixture.
fn attention(sizes: Attention, width: usize, across: bool, each: usize, limits: Limits) -> u64 {
    let Attention {
        rows,
        heads,
        queries,
        keys,
    } = sizes;
    let Some(step) = sizes.step(limits) else {
        return u64::MAX;
    };
    let width_at_once = width / heads.max(1) * step.heads;
    let copied = if across {
        bytes(rows * (queries + 2 * keys) * width, each)
    } else {
        0
    };
    let some_queries = step.rows * step.queries * width_at_once;
    // One head over the whole width lies as it should.
    let split = u64::from(heads > 1);
    let (q, kv) = (
        bytes(some_queries, each),
        bytes(2 * step.rows * keys * width_at_once, each),
    );
    let scores = bytes(step.rows * step.heads * step.queries * keys, each);
    let scaling = split * q + 2 * bytes(some_queries, F32);
    let softmax = (split + 1) * q + 2 * scores;
    let mixing = (split + 1) * q + scores + q;
    let all = (step.rows, step.heads, step.queries) == (rows, heads, queries);
    let whole = if all {
        0
    } else {
        bytes(rows * queries * width, each)
    };
    copied + whole + split * kv + scaling.max(softmax).max(mixing)
}

/// Two `f32` copies at the highest, of the whole or of a slice.
fn norm(sizes: Norm, result: u64, limits: Limits) -> u64 {
    let step = sizes.step(limits);
    let slice = step.images * step.groups * sizes.per_group;
    let all = (step.images, step.groups) == (sizes.images, sizes.groups);
    let whole = if all { 0 } else { result };
    whole + 2 * bytes(slice, F32)
}

/// The first layer with its bias, the gate, the second layer with bias and residual.
pub(super) fn feed_forward_memory(rows: usize, width: usize, each: usize, limits: Limits) -> OpMemory {
    let slice = feed_forward_rows(rows, 8 * width, limits);
    let kept = bytes(rows * width, each);
    let whole = if slice < rows { kept } else { 0 };
    let hidden = bytes(slice * 8 * width, each);
    let gated = hidden / 2;
    let out = bytes(slice * width, each);
    let inside = (2 * hidden).max(hidden + 2 * gated).max(gated + 2 * out);
    OpMemory {
        peak: whole + inside,
        kept,
    }
}
