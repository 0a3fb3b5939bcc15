//! The speech encoder's pass, as `latentsync::whisper` does it.

use super::tape::{Ghost, Tape};
use crate::config::WhisperDims;

/// Taps of its convolutions over time.
const TAPS: usize = 3;

/// `mel` is `(1, bands, frames)`; the result `(frames / 2, layers + 1, width)`.
pub(super) fn forward(tape: &Tape, dims: &WhisperDims, mel: &Ghost) -> Ghost {
    let (bands, frames, width) = (dims.n_mels, 2 * dims.n_audio_ctx, dims.n_audio_state);
    let mut x = tape.copy(&[frames, bands]);
    debug_assert_eq!(mel.elements(), frames * bands);
    for stride in [1, 2] {
        let rows = x.shape[0].div_ceil(stride);
        let neighbours = tape.copy(&[rows, x.shape[1] * TAPS]);
        let hidden = tape.linear(&neighbours, width);
        drop(neighbours);
        x = tape.copy(&hidden.shape);
    }
    x = tape.copy(&x.shape);
    let mut states = vec![x.clone()];
    for _ in 0..dims.n_audio_layer {
        x = block(tape, dims, &x);
        states.push(x.clone());
    }
    tape.copy(&[dims.n_audio_ctx, states.len(), width])
}

fn block(tape: &Tape, dims: &WhisperDims, x: &Ghost) -> Ghost {
    let (rows, width) = (dims.n_audio_ctx, dims.n_audio_state);
    let normed = tape.layer_norm(x);
    let (q, k, v) = (
        tape.linear(&normed, width),
        tape.linear_with(&normed, width, 0),
        tape.linear(&normed, width),
    );
    let mixed = tape.attend((&q, &k), dims.n_audio_head, (1, rows, rows), false);
    let residual = tape.linear_with(&mixed, width, 2);
    let inner = tape.layer_norm(&residual);
    let hidden = tape.linear(&inner, 4 * width);
    drop(inner);
    let activated = tape.copy(&hidden.shape);
    drop(hidden);
    let y = tape.linear_with(&activated, width, 2);
    drop((q, k, v));
    y
}
