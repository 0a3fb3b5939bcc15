//! The requests of the checks, for the checkpoint that is tested.

use latentfarm_common::digest::Digest;
use latentfarm_common::wire::engine::EngineRequest;
use latentfarm_common::wire::memory::MemoryPlan;
use latentfarm_engine::made_up;

use super::plan::Plan;

/// Guidance where it is on.
pub(super) const GUIDED: f32 = 1.5;
/// And off.
pub(super) const UNGUIDED: f32 = 1.0;

pub(super) fn load(plan: &Plan) -> EngineRequest {
    made_up::load(&plan.args.weights, &plan.checkpoint, MemoryPlan::default())
}

pub(super) fn audio() -> EngineRequest {
    made_up::audio(track())
}

pub(super) fn window(plan: &Plan, steps: u32, guidance_scale: f32) -> EngineRequest {
    let model = made_up::model(&plan.checkpoint, steps, guidance_scale);
    made_up::window(model, track(), MemoryPlan::default())
}

fn track() -> Digest {
    Digest::of(b"memtest")
}
