//! The memory of this crate's CPU kernels, which compute in `f32`: the result and the workspace. Weights that
//! are mapped in a half type are widened in the workspace.

use super::figures::{OpMemory, bytes};
use crate::hooks::Op;
use crate::kernels::cpu::workspace;
use crate::slices::SliceLimits;

const F32: usize = 4;

/// Returns the memory of `op` with `threads` threads.
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

/// Returns the memory of a feed-forward: that of one slice, and of the whole result if there are several
/// slices.
pub(super) fn feed_forward_memory(
    rows: usize,
    width: usize,
    threads: usize,
    limits: SliceLimits,
) -> OpMemory {
    let slice = workspace::feed_forward_slice(rows, width, limits);
    let kept = bytes(rows * width, F32);
    let whole = if slice < rows { kept } else { 0 };
    let hidden = bytes(slice * 8 * width, F32);
    let gated = hidden / 2;
    let out = bytes(slice * width, F32);
    let workspace_bytes = |input: usize, output: usize| bytes(workspace::linear(input, output, threads), F32);
    let inside = (hidden + workspace_bytes(width, 8 * width))
        .max(hidden + gated)
        .max(gated + out + workspace_bytes(4 * width, width));
    OpMemory {
        peak: (whole + inside).max(kept),
        kept,
    }
}
