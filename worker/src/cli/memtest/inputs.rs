//! Made-up faces and sound: what they show does not matter, only how large they are.

use latentfarm_common::audio::windows::pcm_range;
use latentfarm_common::digest::Digest;
use latentfarm_common::time::{FrameRate, WINDOW_FRAMES};
use latentfarm_common::wire::engine::{AudioRequest, EngineRequest, WindowRequest};
use latentfarm_common::wire::job::{AudioWindows, ModelSpec};
use latentfarm_common::wire::memory::MemoryPlan;

use super::plan::Plan;

/// Two seconds of sound at 16 kHz.
const SAMPLES: u64 = 32_000;
/// Guidance where it is on.
pub(super) const GUIDED: f32 = 1.5;
/// And off.
pub(super) const UNGUIDED: f32 = 1.0;

pub(super) fn load(plan: &Plan) -> EngineRequest {
    EngineRequest::Load {
        weights_dir: plan.args.weights.display().to_string(),
        expected: plan.checkpoint.identity(),
        plan: MemoryPlan::default(),
    }
}

pub(super) fn audio() -> EngineRequest {
    let range = pcm_range(0, SAMPLES, AudioWindows::Overlapping);
    let tone = (range.start..range.end).map(|at| i16::try_from(at * 997 % 20_011).unwrap_or(0) - 10_000);
    EngineRequest::Audio(AudioRequest {
        track: track(),
        track_samples: SAMPLES,
        layout: AudioWindows::Overlapping,
        log_mel_max: 1.0,
        window: 0,
        pcm: tone.collect(),
    })
}

pub(super) fn window(plan: &Plan, steps: u32, guidance_scale: f32) -> EngineRequest {
    let resolution_px = plan.checkpoint.resolution_px();
    let side = usize::try_from(resolution_px).unwrap_or(0);
    let frames = usize::try_from(WINDOW_FRAMES).unwrap_or(0);
    let shade = |at: usize| u8::try_from(at * 31 % 251).unwrap_or(0);
    EngineRequest::Window(WindowRequest {
        model: ModelSpec {
            weights: plan.checkpoint.identity(),
            synthetic: plan.checkpoint.synthetic(),
            resolution_px,
            steps,
            guidance_scale,
            seed: 1,
        },
        track: track(),
        track_samples: SAMPLES,
        layout: AudioWindows::Overlapping,
        first_frame: 0,
        rate: FrameRate::FILM_25,
        faces: (0..frames * 3 * side * side).map(shade).collect(),
        silence: None,
        plan: MemoryPlan::default(),
    })
}

fn track() -> Digest {
    Digest::of(b"memtest")
}
