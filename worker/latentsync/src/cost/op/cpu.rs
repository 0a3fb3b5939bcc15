//! The CPU's own operations in `f32`: a result and the room to work in. Weights that are mapped in a half type are
//! widened where they are used.

use super::figures::{OpMemory, bytes};
use crate::hooks::Op;
use crate::kernels::cpu::workspace;
use crate::slices::Limits;

const F32: usize = 4;

pub(super) fn op_memory(op: Op, threads: usize) -> OpMemory {
    let kept = bytes(op.output_elements(), F32);
    let values = match op {
        Op::Linear { input, output, .. } => workspace::linear(input, output, threads),
        Op::Conv2d { sizes, stride } => workspace::conv2d(sizes, stride, threads),
        Op::Attention { sizes, .. } => workspace::attention(sizes, threads),
        Op::GroupNorm { .. } | Op::LayerNorm { .. } | Op::Geglu { .. } | Op::Copy { .. } => 0,
    };
    OpMemory {
        peak: kept + bytes(values, F32),
        kept,
    }
}

/// A slice at a time, and the whole result where there are several.
pub(super) fn feed_forward_memory(rows: usize, width: usize, threads: usize, limits: Limits) -> OpMemory {
    let slice = workspace::feed_forward_slice(rows, width, limits);
    let kept = bytes(rows * width, F32);
    let whole = if slice < rows { kept } else { 0 };
    let hidden = bytes(slice * 8 * width, F32);
    let gated = hidden / 2;
    let out = bytes(slice * width, F32);
    let to_work_in = |input: usize, output: usize| bytes(workspace::linear(input, output, threads), F32);
    let inside = (hidden + to_work_in(width, 8 * width))
        .max(hidden + gated)
        .max(gated + out + to_work_in(4 * width, width));
    OpMemory {
        peak: (whole + inside).max(kept),
        kept,
    }
}
