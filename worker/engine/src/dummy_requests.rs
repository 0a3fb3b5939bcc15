//! Requests with made-up faces and audio, for `latentfarm-engine check`, the worker's `memtest` and tests.
//! What they show does not matter there, only how large they are.

use std::path::Path;

use latentfarm_common::audio::windows::pcm_range;
use latentfarm_common::digest::Digest;
use latentfarm_common::time::{FrameRate, WINDOW_FRAMES};
use latentfarm_common::wire::engine::{AudioRequest, EngineRequest, WindowRequest};
use latentfarm_common::wire::job::{AudioWindows, ModelSpec};
use latentfarm_common::wire::memory::MemoryPlan;
use latentsync::Checkpoint;

/// Two seconds of audio at 16 kHz.
const SAMPLES: u64 = 32_000;

/// Returns the request to load `checkpoint`, which is in the folder `weights`, for windows under `plan`.
pub fn load(weights: &Path, checkpoint: &Checkpoint, plan: MemoryPlan) -> EngineRequest {
    EngineRequest::Load {
        weights_dir: weights.display().to_string(),
        expected: checkpoint.identity(),
        plan,
    }
}

/// Returns the request to encode the one audio window of `track`, two seconds of a tone.
pub fn audio(track: Digest) -> EngineRequest {
    let range = pcm_range(0, SAMPLES, AudioWindows::Overlapping);
    let tone = (range.start..range.end).map(|at| i16::try_from(at * 997 % 20_011).unwrap_or(0) - 10_000);
    EngineRequest::Audio(AudioRequest {
        track,
        track_samples: SAMPLES,
        layout: AudioWindows::Overlapping,
        log_mel_max: 1.0,
        window: 0,
        pcm: tone.collect(),
    })
}

/// Returns the model of `checkpoint`, at the resolution that it was trained for.
pub fn model(checkpoint: &Checkpoint, steps: u32, guidance_scale: f32) -> ModelSpec {
    ModelSpec {
        weights: checkpoint.identity(),
        weights_kind: checkpoint.kind(),
        resolution_px: checkpoint.resolution_px(),
        steps,
        guidance_scale,
        seed: 1,
    }
}

/// Returns the request to render the first window of `track`.
pub fn window(model: ModelSpec, track: Digest, plan: MemoryPlan) -> EngineRequest {
    let side = usize::try_from(model.resolution_px).unwrap_or(0);
    let frames = usize::try_from(WINDOW_FRAMES).unwrap_or(0);
    let shade = |at: usize| u8::try_from(at * 31 % 251).unwrap_or(0);
    EngineRequest::Window(WindowRequest {
        model,
        track,
        track_samples: SAMPLES,
        layout: AudioWindows::Overlapping,
        first_frame: 0,
        rate: FrameRate::FPS_25,
        faces: (0..frames * 3 * side * side).map(shade).collect(),
        silence: None,
        plan,
    })
}
