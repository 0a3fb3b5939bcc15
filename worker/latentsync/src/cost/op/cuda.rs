//! The memory of the reference kernels on CUDA, in a half type with `f32` statistics: what each tensor
//! operation allocates.
//!
//! The CUDA kernels of this crate need less, because they add in place and norm without copies. The figures
//! are used for both: they bound what the reference kernels need if the check of the CUDA kernels fails, and
//! with the CUDA kernels a GPU's pool was only 4 to 12 % smaller than the whole prediction; see
//! `measured.json` beside the prediction.

use super::figures::{OpMemory, OpParams, bytes};
use crate::hooks::Op;
use crate::kernels::reference::SOFTMAX_AT_ONCE;
use crate::slices::{AttentionShape, ConvolutionShape, GroupNormShape, SliceLimits, feed_forward_rows};

const F32: usize = 4;

/// Returns the memory of `op` if a value takes `each` bytes.
pub(super) fn op_memory(op: Op, details: OpParams, each: usize, limits: SliceLimits) -> OpMemory {
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
            let sizes = GroupNormShape {
                images,
                groups,
                per_group: channels / groups * area,
            };
            norm(sizes, kept, limits)
        }
        // These are the gate and the result.
        Op::Geglu { .. } => 2 * kept,
        Op::LayerNorm { .. } => kept,
    };
    OpMemory { peak, kept }
}

/// Returns the memory of a convolution: the im2col columns of one slice, their product and its transposition,
/// and the whole result if there are several slices.
fn convolution(sizes: ConvolutionShape, stride: usize, result: u64, each: usize, limits: SliceLimits) -> u64 {
    let ConvolutionShape {
        images,
        input,
        output,
        height,
        width,
        kernel,
    } = sizes;
    let Some(step) = sizes.slice_within(limits) else {
        return u64::MAX;
    };
    let pixels = step.images * step.rows * width;
    let columns = bytes(pixels * input * kernel * kernel, each);
    let piece = bytes(pixels * output, each);
    let all = (step.images, step.rows) == (images, height);
    let whole = if all { 0 } else { result };
    // A slice of some rows of a picture is copied with its border first.
    let strip = if step.rows < height {
        let rows = (step.rows - 1) * stride + kernel;
        2 * bytes(input * rows * (width * stride + 2), each)
    } else {
        0
    };
    whole + strip + columns + 2 * piece
}

/// Returns the memory of an attention: for one slice, the heads in separate copies, the scores twice during
/// the softmax, and the mixture of the values.
fn attention(sizes: AttentionShape, width: usize, across: bool, each: usize, limits: SliceLimits) -> u64 {
    let AttentionShape {
        rows,
        heads,
        queries,
        keys,
    } = sizes;
    let Some(step) = sizes.slice_within(limits) else {
        return u64::MAX;
    };
    let width_at_once = width / heads.max(1) * step.heads;
    let copied = if across {
        bytes(rows * (queries + 2 * keys) * width, each)
    } else {
        0
    };
    let some_queries = step.rows * step.queries * width_at_once;
    // A single head over the whole width needs no copy.
    let split = u64::from(heads > 1);
    let (q, kv) = (
        bytes(some_queries, each),
        bytes(2 * step.rows * keys * width_at_once, each),
    );
    let scores = bytes(step.rows * step.heads * step.queries * keys, each);
    let scaling = split * q + 2 * bytes(some_queries, F32);
    // The softmax converts some of the scores to `f32` at a time.
    let scores_at_once = (step.rows * step.heads * step.queries * keys).min(SOFTMAX_AT_ONCE.max(keys));
    let converted = if each < F32 {
        2 * bytes(scores_at_once, F32)
    } else {
        0
    };
    let softmax = (split + 1) * q + 2 * scores + converted;
    let mixing = (split + 1) * q + scores + q;
    let all = (step.rows, step.heads, step.queries) == (rows, heads, queries);
    let whole = if all {
        0
    } else {
        bytes(rows * queries * width, each)
    };
    copied + whole + split * kv + scaling.max(softmax).max(mixing)
}

/// Returns the memory of a group norm: at most two `f32` copies of the input or of a slice.
fn norm(sizes: GroupNormShape, result: u64, limits: SliceLimits) -> u64 {
    let step = sizes.slice_within(limits);
    let slice = step.images * step.groups * sizes.per_group;
    let all = (step.images, step.groups) == (sizes.images, sizes.groups);
    let whole = if all { 0 } else { result };
    whole + 2 * bytes(slice, F32)
}

/// Returns the memory of a feed-forward: the first layer with its bias, the gate, and the second layer with
/// bias and residual.
pub(super) fn feed_forward_memory(rows: usize, width: usize, each: usize, limits: SliceLimits) -> OpMemory {
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
