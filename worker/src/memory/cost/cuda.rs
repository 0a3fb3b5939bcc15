//! The composed operations on CUDA, in a half type with `f32` statistics. Never run on a GPU so far: derived from
//! what each tensor operation allocates.

use super::{Cost, Details, bytes};
use crate::latentsync::boundary::Op;
use crate::latentsync::slices::{Attention, Convolution, Limits, Norm, feed_forward_rows};

const F32: usize = 4;

pub(super) fn cost(op: Op, details: Details, each: usize, limits: Limits) -> Cost {
    let kept = bytes(op.output_elements(), each);
    let added = if details.addends > 0 { 2 * kept } else { kept };
    let peak = match op {
        Op::Linear { .. } | Op::Copy { .. } => added,
        Op::Conv2d { .. } => convolution(op, each, limits).max(added),
        Op::Attention { .. } => attention(op, details, each, limits),
        Op::GroupNorm { .. } => norm(op, details, each, limits),
        // Gate and result.
        Op::Geglu { .. } => 2 * kept,
        Op::LayerNorm { .. } => kept,
    };
    Cost { peak, kept }
}

/// Patches, their product, the product in the usual order: for a piece at a time, and the whole result where there are
/// several.
fn convolution(op: Op, each: usize, limits: Limits) -> u64 {
    let Op::Conv2d {
        images,
        input,
        output,
        height,
        width,
        kernel,
        stride,
    } = op
    else {
        return 0;
    };
    let (height, width) = (height / stride, width / stride);
    let sizes = Convolution {
        images,
        input,
        output,
        height,
        width,
        kernel,
    };
    let Some(step) = sizes.step(limits) else {
        return u64::MAX;
    };
    let pixels = step.images * step.rows * width;
    let columns = bytes(pixels * input * kernel * kernel, each);
    let piece = bytes(pixels * output, each);
    let all = (step.images, step.rows) == (images, height);
    let whole = if all { 0 } else { bytes(op.output_elements(), each) };
    // A strip of a picture is copied with its border.
    let strip = if step.rows < height {
        let rows = (step.rows - 1) * stride + kernel;
        2 * bytes(input * rows * (width * stride + 2), each)
    } else {
        0
    };
    whole + strip + columns + 2 * piece
}

fn attention(op: Op, details: Details, each: usize, limits: Limits) -> u64 {
    let Op::Attention {
        rows,
        heads,
        queries,
        keys,
        width,
    } = op
    else {
        return 0;
    };
    let sizes = Attention {
        rows,
        heads,
        queries,
        keys,
    };
    let Some(step) = sizes.step(limits) else {
        return u64::MAX;
    };
    let width_at_once = width / heads.max(1) * step.heads;
    let copied = if details.across {
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
    let whole = if all { 0 } else { bytes(op.output_elements(), each) };
    copied + whole + split * kv + scaling.max(softmax).max(mixing)
}

/// Two `f32` copies at the highest, of the whole or of a slice.
fn norm(op: Op, details: Details, each: usize, limits: Limits) -> u64 {
    let Op::GroupNorm {
        images,
        channels,
        area,
        ..
    } = op
    else {
        return 0;
    };
    let groups = details.groups.max(1);
    let sizes = Norm {
        images,
        groups,
        per_group: channels / groups * area,
    };
    let step = sizes.step(limits);
    let slice = step.images * step.groups * sizes.per_group;
    let all = (step.images, step.groups) == (images, groups);
    let whole = if all { 0 } else { bytes(op.output_elements(), each) };
    whole + 2 * bytes(slice, F32)
}

/// The first layer with its bias, the gate, the second layer with bias and residual.
pub(super) fn feed_forward(rows: usize, width: usize, each: usize, limits: Limits) -> Cost {
    let slice = feed_forward_rows(rows, 8 * width, limits);
    let kept = bytes(rows * width, each);
    let whole = if slice < rows { kept } else { 0 };
    let hidden = bytes(slice * 8 * width, each);
    let gated = hidden / 2;
    let out = bytes(slice * width, each);
    let inside = (2 * hidden).max(hidden + 2 * gated).max(gated + 2 * out);
    Cost {
        peak: whole + inside,
        kept,
    }
}
