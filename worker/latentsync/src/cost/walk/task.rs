//! The walk over a whole task, and the one over a single pass of the UNet.

use latentfarm_common::wire::memory::{DeviceKind, MemoryPlan};

use super::stage::StageMemory;
use super::tracker::MemoryTracker;
use super::{unet, window};
use crate::ExecutionOptions;
use crate::config::UNetConfig;
use crate::cost::compute::ComputeSpec;
use crate::cost::shape::{ModelShape, WeightCounts};
use crate::hooks::Op;

/// The memory and the operations of a task, from loading the weights to the end of a window.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Walk {
    /// The stages in the order in which they run: load, audio, VAE encode, denoise, VAE decode.
    pub(crate) stages: Vec<StageMemory>,
    /// The memory while a picture is encoded and decoded again in `f32` because a half type overflowed. It is
    /// empty if the networks compute in `f32`.
    pub(crate) in_f32: Vec<StageMemory>,
    /// The operations of one audio window and of a window of faces with one denoising step.
    pub(crate) ops: Vec<Op>,
}

/// Walks a task under `plan`, with classifier-free guidance if `guided`. `weights` are the counts of `shape`.
pub(crate) fn walk(
    shape: &ModelShape,
    weights: &WeightCounts,
    spec: &ComputeSpec,
    plan: MemoryPlan,
    guided: bool,
) -> Walk {
    let tracker = MemoryTracker::new(*spec, ExecutionOptions::of(plan));
    let (stages, in_f32) = window::stages(&tracker, shape, weights, guided);
    Walk {
        stages,
        in_f32,
        ops: tracker.into_ops(),
    }
}

/// Returns the operations of one pass of the UNet over `frames` latents of `side` x `side`, with
/// `audio_tokens` tokens for each frame.
pub(crate) fn unet_operations(
    config: &UNetConfig,
    frames: usize,
    side: usize,
    audio_tokens: usize,
) -> Vec<Op> {
    let spec = ComputeSpec::of(DeviceKind::Cpu);
    let tracker = MemoryTracker::new(spec, ExecutionOptions::of(MemoryPlan::default()));
    let latents = tracker.tensor(spec.bytes_per_value, &[1, config.in_channels, frames, side, side]);
    let audio = [1, frames, audio_tokens, config.cross_attention_dim];
    let audio = tracker.tensor(spec.bytes_per_value, &audio);
    drop(unet::forward(&tracker, config, &latents, &audio));
    drop((latents, audio));
    tracker.into_ops()
}
