//! The operations of the audio encoder, in the order in which [`whisper`](crate::whisper) runs them.

use super::tensor::MetaTensor;
use super::tracker::MemoryTracker;
use crate::config::WhisperDims;

/// The kernel size of the convolutions over time.
const TAPS: usize = 3;

/// Encodes `mel`, `(1, bands, frames)`, to states, `(frames / 2, layers + 1, width)`.
pub(super) fn forward(tracker: &MemoryTracker, dims: &WhisperDims, mel: &MetaTensor) -> MetaTensor {
    let (bands, frames, width) = (dims.n_mels, 2 * dims.n_audio_ctx, dims.n_audio_state);
    let mut x = tracker.copy(&[frames, bands]);
    debug_assert_eq!(mel.elements(), frames * bands);
    for stride in [1, 2] {
        let rows = x.shape[0].div_ceil(stride);
        let neighbours = tracker.copy(&[rows, x.shape[1] * TAPS]);
        let hidden = tracker.linear(&neighbours, width);
        drop(neighbours);
        x = tracker.copy(&hidden.shape);
    }
    x = tracker.copy(&x.shape);
    let mut states = vec![x.clone()];
    for _ in 0..dims.n_audio_layer {
        x = block(tracker, dims, &x);
        states.push(x.clone());
    }
    tracker.copy(&[dims.n_audio_ctx, states.len(), width])
}

fn block(tracker: &MemoryTracker, dims: &WhisperDims, x: &MetaTensor) -> MetaTensor {
    let (rows, width) = (dims.n_audio_ctx, dims.n_audio_state);
    let normed = tracker.layer_norm(x);
    let (q, k, v) = (
        tracker.linear(&normed, width),
        tracker.linear_with(&normed, width, 0),
        tracker.linear(&normed, width),
    );
    let mixed = tracker.attend((&q, &k), dims.n_audio_head, (1, rows, rows), false);
    let residual = tracker.linear_with(&mixed, width, 2);
    let inner = tracker.layer_norm(&residual);
    let hidden = tracker.linear(&inner, 4 * width);
    drop(inner);
    let activated = tracker.copy(&hidden.shape);
    drop(hidden);
    let y = tracker.linear_with(&activated, width, 2);
    drop((q, k, v));
    y
}
