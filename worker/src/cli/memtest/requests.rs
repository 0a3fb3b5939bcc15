//! The engine requests that the checks send, made up for the checkpoint under test.

use latentfarm_common::digest::Digest;
use latentfarm_common::wire::engine::EngineRequest;
use latentfarm_common::wire::memory::MemoryPlan;
use latentfarm_engine::dummy_requests;

use super::setup::Setup;

/// Guidance scale of a window with guidance.
pub(super) const GUIDED: f32 = 1.5;
/// Guidance scale of a window without guidance.
pub(super) const UNGUIDED: f32 = 1.0;

pub(super) fn load(setup: &Setup) -> EngineRequest {
    dummy_requests::load(&setup.args.weights, &setup.checkpoint, MemoryPlan::default())
}

pub(super) fn audio() -> EngineRequest {
    dummy_requests::audio(track())
}

pub(super) fn window(setup: &Setup, steps: u32, guidance_scale: f32) -> EngineRequest {
    let model = dummy_requests::model(&setup.checkpoint, steps, guidance_scale);
    dummy_requests::window(model, track(), MemoryPlan::default())
}

fn track() -> Digest {
    Digest::of(b"memtest")
}
