use std::cell::RefCell;

use candle_core::{DType, Device, Result, Tensor};
use latentfarm_common::wire::memory::{DeviceKind, MemoryPlan};

use super::*;
use crate::cost::compute::ComputeSpec;
use crate::cost::shape::ModelShape;
use crate::denoise::SamplingParams;
use crate::hooks::{Hooks, Op};
use crate::noise::Noise;
use crate::synth::{Size, synthesize};
use crate::{Checkpoint, Faces, LatentSync};
use crate::{ExecutionOptions, Run};

/// Records the operations that the layers of the real networks call their hooks for.
#[derive(Default)]
struct RecordedOps(Vec<Op>);

impl Hooks for RecordedOps {
    fn before(&mut self, op: Op, _x: &Tensor) -> Result<()> {
        self.0.push(op);
        Ok(())
    }
}

fn walked(shape: &ModelShape, kind: DeviceKind, plan: MemoryPlan, guided: bool) -> Walk {
    let weights = shape.weights().unwrap();
    walk(shape, &weights, &ComputeSpec::of(kind), plan, guided)
}

fn recorded(plan: MemoryPlan, work: impl FnOnce(&Run)) -> Vec<Op> {
    let recorded = RefCell::new(RecordedOps::default());
    work(&Run::new(ExecutionOptions::of(plan)).with_hooks(&recorded));
    recorded.into_inner().0
}

fn model(size: Size) -> (ModelShape, LatentSync) {
    let dir = tempfile::tempdir().unwrap();
    synthesize(dir.path(), size, 3).unwrap();
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let model = LatentSync::load(&checkpoint, &Device::Cpu, DType::F32, ExecutionOptions::default()).unwrap();
    (ModelShape::of(&checkpoint), model)
}

/// Runs everything that a task runs, with one denoising step.
fn render(run: &Run, model: &LatentSync, resolution: usize, guided: bool) {
    let mel = Tensor::zeros((1, 80, 3000), DType::F32, &Device::Cpu).unwrap();
    model.whisper().forward(run, &mel).unwrap();
    let bytes = vec![100_u8; ModelShape::FRAMES * 3 * resolution * resolution];
    let faces = Faces {
        bytes: &bytes,
        resolution,
        first_frame: 0,
    };
    let (tokens, width) = model.audio_shape();
    let rows = Tensor::zeros((ModelShape::FRAMES, tokens, width), DType::F32, &Device::Cpu).unwrap();
    let sampling = SamplingParams {
        steps: 1,
        guidance_scale: if guided { 1.5 } else { 1.0 },
    };
    let noise = Noise::Keyed { seed: 1 };
    model
        .render(run, faces, &rows, &noise, sampling, &mut |_| Ok(()))
        .unwrap();
}

fn assert_same(walked: &[Op], recorded: &[Op], what: &str) {
    for (index, (walked, recorded)) in walked.iter().zip(recorded).enumerate() {
        assert_eq!(walked, recorded, "{what}: operation {index}");
    }
    assert_eq!(walked.len(), recorded.len(), "{what}");
}

fn assert_walk_is_what_the_model_does(size: Size, resolutions: [usize; 2]) {
    let (shape, model) = model(size);
    for resolution in resolutions {
        for (guided, plan) in [
            (false, MemoryPlan::BatchedGuidance),
            (true, MemoryPlan::SequentialGuidance),
            (false, MemoryPlan::Streamed),
        ] {
            let recorded = recorded(plan, |run| render(run, &model, resolution, guided));
            let walk = walked(&shape.clone().at(resolution), DeviceKind::Cpu, plan, guided);
            assert_same(
                &walk.ops,
                &recorded,
                &format!("{size:?}, {resolution} px, {plan}, guided {guided}"),
            );
        }
    }
}

#[test]
fn every_operation_of_the_tiny_model_is_walked_in_order() {
    assert_walk_is_what_the_model_does(Size::Tiny, [64, 128]);
}

#[test]
fn every_operation_of_the_small_model_is_walked_in_order() {
    assert_walk_is_what_the_model_does(Size::Small, [64, 128]);
}

#[test]
fn guidance_in_one_pass_is_walked_as_a_batch_of_two() {
    let (shape, model) = model(Size::Tiny);
    let (frames, side) = (ModelShape::FRAMES, shape.latent_side());
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
    let (tokens, width) = model.audio_shape();
    let recorded = recorded(MemoryPlan::BatchedGuidance, |run| {
        let latents = zeros(&[2, 13, frames, side, side]);
        let audio = zeros(&[2, frames, tokens, width]);
        model.unet().forward(run, &latents, 501, &audio).unwrap();
    });
    let ops = |kind| walked(&shape, kind, MemoryPlan::BatchedGuidance, true).ops;
    let (batched, halves) = (ops(DeviceKind::Cuda), ops(DeviceKind::Cpu));
    assert_eq!(halves.len() - batched.len(), recorded.len());
    let start = batched.windows(recorded.len()).position(|ops| ops == recorded);
    assert!(start.is_some());
}

#[test]
fn nothing_is_left_alive_but_the_weights() {
    for kind in [DeviceKind::Cpu, DeviceKind::Cuda] {
        for plan in MemoryPlan::ALL {
            let shape = ModelShape::published(256).unwrap();
            let walk = walked(&shape, kind, plan, true);
            let (load, last) = (walk.stages[0], walk.stages[walk.stages.len() - 1]);
            assert_eq!(last.live_after, load.live_after, "{kind}, {plan}");
        }
    }
}

#[test]
fn published_weights_are_as_large_as_their_files() {
    let shape = ModelShape::published(256).unwrap();
    let weights = shape.weights().unwrap();
    // The UNet has 1,267,099,844 parameters and 844,800 values of position tables.
    assert_eq!(weights.unet.layers + weights.unet.rest, 1_267_944_644);
    assert_eq!(weights.vae.layers + weights.vae.rest, 83_653_863);
    let cuda = walked(&shape, DeviceKind::Cuda, MemoryPlan::default(), false);
    assert_eq!(cuda.stages[0].weights >> 20, 2593);
}

#[test]
fn no_plan_takes_more_than_the_one_before_it() {
    for px in [256, 512] {
        for kind in [DeviceKind::Cpu, DeviceKind::Cuda] {
            for guided in [false, true] {
                let shape = ModelShape::published(px).unwrap();
                let mut before = u64::MAX;
                for plan in MemoryPlan::ALL {
                    let walk = walked(&shape, kind, plan, guided);
                    let peak = walk.stages.iter().map(|stage| stage.peak).max().unwrap();
                    assert!(peak <= before, "{px} px, {kind}, guided {guided}, {plan}");
                    before = peak;
                }
            }
        }
    }
}
