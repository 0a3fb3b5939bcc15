//! Compares every memory plan with the fastest: what it computes, and what memory it takes.
//!
//! The tests use synthetic weights and small limits, so that everything that can be sliced is. With
//! `reference_kernels` the CPU works as a GPU does, by tensor operations, with weights that are brought in
//! and evicted.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests are tests too"
)]

use std::alloc::System;
use std::cell::RefCell;
use std::path::Path;
use std::sync::Mutex;

use candle_core::{DType, Device, Tensor};
use latentfarm_common::wire::memory::MemoryPlan;
use latentfarm_engine::memory::counting::{CountingAllocator, live_bytes, take_peak};
use latentsync::cost::plan::TOLERANCE;
use latentsync::denoise::SamplingParams;
use latentsync::noise::Noise;
use latentsync::synth::{Size, synthesize};
use latentsync::{Checkpoint, ExecutionOptions, Faces, LatentSync, Run};
use latentsync::{Hooks, Op};

#[global_allocator]
static ALLOCATOR: CountingAllocator<System> = CountingAllocator(System);

/// Lets one test run at a time: they share the allocator's counters if a runner runs them in one process.
static SERIAL: Mutex<()> = Mutex::new(());

/// Returns the options of a plan, with limits that slice a tiny model's layers.
fn options(plan: MemoryPlan, reference_kernels: bool) -> ExecutionOptions {
    let mut options = ExecutionOptions {
        reference_kernels,
        ..ExecutionOptions::of(plan)
    };
    if plan >= MemoryPlan::Sliced {
        options.limits.scores = 1 << 12;
        options.limits.columns = 1 << 17;
        options.limits.hidden = 1 << 10;
    }
    if plan >= MemoryPlan::TwoPassNorm {
        options.limits.normed = 1 << 12;
    }
    options
}

struct TinyModel {
    checkpoint: Checkpoint,
    dir: tempfile::TempDir,
}

impl TinyModel {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        synthesize(dir.path(), Size::Tiny, 3).unwrap();
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        Self { checkpoint, dir }
    }

    fn load(&self, dtype: DType, options: ExecutionOptions) -> LatentSync {
        LatentSync::load(&self.checkpoint, &Device::Cpu, dtype, options)
            .unwrap_or_else(|error| panic!("{error}"))
    }
}

/// The values of a rendered window.
struct Rendered {
    latents: Vec<f32>,
    faces: Vec<f32>,
}

impl Rendered {
    fn bits(&self) -> Vec<u32> {
        self.latents
            .iter()
            .chain(&self.faces)
            .map(|v| v.to_bits())
            .collect()
    }
}

/// Renders `frames` frames in one denoising step.
fn render(
    model: &LatentSync,
    side: usize,
    frames: usize,
    guidance_scale: f32,
    options: ExecutionOptions,
) -> Rendered {
    let run = &Run::new(options);
    let bytes: Vec<u8> = (0..frames * 3 * side * side)
        .map(|i| u8::try_from((i % side * 3 + i / side % side * 2 + i / (side * side)) % 251).unwrap())
        .collect();
    let faces = Faces {
        bytes: &bytes,
        resolution: side,
        first_frame: 16,
    };
    let (tokens, width) = model.audio_shape();
    let values = (0..frames * tokens * width)
        .map(|i| ((i * 37 % 101) as f32 - 50.0) / 40.0)
        .collect();
    let rows = Tensor::from_vec(values, (frames, tokens, width), &Device::Cpu).unwrap();
    let sampling = SamplingParams {
        steps: 1,
        guidance_scale,
    };
    let window = model
        .render(
            run,
            faces,
            &rows,
            &Noise::Keyed { seed: 5 },
            sampling,
            &mut |_| Ok(()),
        )
        .unwrap_or_else(|error| panic!("{error}"));
    let list = |x: &Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    Rendered {
        latents: list(&window.latents),
        faces: window.faces.iter().flat_map(list).collect(),
    }
}

fn side(tiny: &TinyModel) -> usize {
    usize::try_from(tiny.checkpoint.resolution_px()).unwrap()
}

/// Returns the largest difference divided by the largest value of `b`.
fn distance(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let largest = b.iter().fold(0.0_f32, |most, v| most.max(v.abs()));
    let apart = a
        .iter()
        .zip(b)
        .fold(0.0_f32, |most, (a, b)| most.max((a - b).abs()));
    f64::from(apart) / f64::from(largest)
}

#[test]
fn on_the_cpu_every_plan_gives_the_same_bits() {
    let _serial = SERIAL.lock();
    let tiny = TinyModel::new();
    let model = tiny.load(DType::F32, ExecutionOptions::default());
    let fastest = render(
        &model,
        side(&tiny),
        16,
        2.0,
        options(MemoryPlan::default(), false),
    )
    .bits();
    for plan in MemoryPlan::ALL {
        let other = render(&model, side(&tiny), 16, 2.0, options(plan, false)).bits();
        assert!(other == fastest, "{plan}");
    }
}

#[test]
fn reference_plans_give_the_same_within_their_tolerance() {
    let _serial = SERIAL.lock();
    let tiny = TinyModel::new();
    // Slices change values by a few units in the last place of `f32`, which a half type now and then rounds
    // to another number.
    for (dtype, allowed) in [(DType::F32, TOLERANCE), (DType::F16, 5e-3), (DType::BF16, 4e-2)] {
        let model = tiny.load(dtype, options(MemoryPlan::default(), true));
        let all = MemoryPlan::ALL.map(|plan| render(&model, side(&tiny), 2, 2.0, options(plan, true)));
        for (plan, other) in MemoryPlan::ALL.iter().zip(&all) {
            let latents = distance(&other.latents, &all[0].latents);
            let faces = distance(&other.faces, &all[0].faces);
            println!("{dtype:?} {plan}: latents {latents:.1e}, faces {faces:.1e}");
            assert!(latents <= allowed && faces <= allowed, "{plan} as {dtype:?}");
        }
        // These plans must not change a bit.
        for plan in [MemoryPlan::TwoPassNorm, MemoryPlan::Offload, MemoryPlan::Streamed] {
            let before = &all[plan.index() - 1];
            assert!(all[plan.index()].bits() == before.bits(), "{plan} as {dtype:?}");
        }
    }
}

/// Returns the peak of bytes in use while `work` runs, on top of those before it.
fn peak(work: impl FnOnce()) -> u64 {
    let before = live_bytes();
    take_peak();
    work();
    take_peak() - before
}

#[test]
fn no_plan_takes_more_memory_than_the_one_before_it() {
    let _serial = SERIAL.lock();
    // With one thread, because how many threads work at the same moment, each with buffers of its own, is
    // random.
    let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    one.install(compare_peaks);
}

fn compare_peaks() {
    let tiny = TinyModel::new();
    for (dtype, reference_kernels, frames) in [
        (DType::F32, false, 16),
        (DType::F32, true, 2),
        (DType::F16, true, 2),
    ] {
        // Loading is included, because the plan decides what is loaded. One run before the measurement
        // allocates what is kept for good.
        let take = |plan| {
            let options = options(plan, reference_kernels);
            render(&tiny.load(dtype, options), side(&tiny), frames, 2.0, options);
        };
        take(MemoryPlan::default());
        let peaks = MemoryPlan::ALL.map(|plan| peak(|| take(plan)));
        println!("{dtype:?}, reference_kernels {reference_kernels}: {peaks:?}");
        for (plan, pair) in MemoryPlan::ALL[1..].iter().zip(peaks.windows(2)) {
            // A few hundred bytes are the runtime's own.
            assert!(
                pair[1] <= pair[0] + 4096,
                "{plan} takes {} after {}",
                pair[1],
                pair[0]
            );
        }
        if reference_kernels {
            for plan in [
                MemoryPlan::SequentialGuidance,
                MemoryPlan::Offload,
                MemoryPlan::Streamed,
            ] {
                let (before, after) = (peaks[plan.index() - 1], peaks[plan.index()]);
                assert!(before > after + 4096, "{plan}: {before} to {after}");
            }
        }
    }
}

#[test]
fn plan_changes_between_windows_without_a_reload() {
    let _serial = SERIAL.lock();
    let tiny = TinyModel::new();
    // The first window allocates the buffers that the matrix kernels keep.
    let first = tiny.load(DType::F16, options(MemoryPlan::default(), true));
    render(&first, side(&tiny), 2, 1.0, options(MemoryPlan::default(), true));
    drop(first);
    let nothing = live_bytes();
    let model = tiny.load(DType::F16, options(MemoryPlan::default(), true));
    let resident = live_bytes() - nothing;
    let run = |plan| {
        let rendered = render(&model, side(&tiny), 2, 1.0, options(plan, true)).bits();
        drop(rendered);
        live_bytes() - nothing
    };
    let after = [
        MemoryPlan::TwoPassNorm,
        MemoryPlan::Streamed,
        MemoryPlan::Offload,
        MemoryPlan::TwoPassNorm,
        MemoryPlan::Streamed,
    ]
    .map(run);
    assert!(
        after[1] < resident / 2,
        "{after:?} of {resident}: idle weights stay"
    );
    let close = |a: u64, b: u64| a.abs_diff(b) < 4096;
    assert!(
        close(after[1], after[2]) && close(after[1], after[4]),
        "{after:?}"
    );
    // Whisper is loaded again only when speech is encoded again.
    assert!(after[3] > after[1] && after[3] <= after[0], "{after:?}");
}

/// Returns the resident bytes of this process's mappings of files in `dir`.
fn mapped_resident(dir: &Path) -> u64 {
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let dir = dir.to_str().unwrap();
    let (mut ours, mut sum) = (false, 0);
    for line in maps.lines() {
        let first = line.split_whitespace().next().unwrap_or_default();
        if !first.ends_with(':') {
            ours = line.contains(dir);
        } else if ours && first == "Rss:" {
            let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
            sum += kib * 1024;
        }
    }
    sum
}

#[test]
fn idle_mapped_weights_are_no_longer_in_memory_on_the_cpu() {
    let _serial = SERIAL.lock();
    let tiny = TinyModel::new();
    let model = tiny.load(DType::F32, ExecutionOptions::default());
    let run = |plan| {
        render(&model, side(&tiny), 2, 1.0, options(plan, false));
        mapped_resident(tiny.dir.path())
    };
    let fastest = run(MemoryPlan::default());
    assert!(fastest > 500_000, "{fastest} bytes of weights are mapped");
    assert_eq!(run(MemoryPlan::Offload), 0);
    assert!(run(MemoryPlan::default()) > 500_000);
    assert_eq!(run(MemoryPlan::Streamed), 0);
}

/// Records the operations that the hooks are called with, and the most bytes of the checkpoint's files that
/// were resident then.
#[derive(Default)]
struct RecordedOps {
    ops: Vec<Op>,
    dir: Option<std::path::PathBuf>,
    most_mapped: u64,
}

impl Hooks for RecordedOps {
    fn before(&mut self, op: Op, _x: &Tensor) -> candle_core::Result<()> {
        self.ops.push(op);
        if let Some(dir) = &self.dir {
            self.most_mapped = self.most_mapped.max(mapped_resident(dir));
        }
        Ok(())
    }
}

fn recorded_ops(tiny: &TinyModel, model: &LatentSync, options: ExecutionOptions, watch: bool) -> RecordedOps {
    let recorded_ops = RefCell::new(RecordedOps {
        dir: watch.then(|| tiny.dir.path().to_owned()),
        ..RecordedOps::default()
    });
    let run = &Run::new(options).with_hooks(&recorded_ops);
    let latent_side = side(tiny) / 8;
    let (tokens, width) = model.audio_shape();
    let latents = Tensor::ones((1, 13, 16, latent_side, latent_side), DType::F32, &Device::Cpu).unwrap();
    let audio = Tensor::ones((1, 16, tokens, width), DType::F32, &Device::Cpu).unwrap();
    model.unet().forward(run, &latents, 501, &audio).unwrap();
    recorded_ops.into_inner()
}

#[test]
fn hooks_are_called_with_the_same_under_every_plan() {
    let _serial = SERIAL.lock();
    let tiny = TinyModel::new();
    for reference_kernels in [false, true] {
        let model = tiny.load(DType::F32, options(MemoryPlan::default(), reference_kernels));
        let fastest = recorded_ops(
            &tiny,
            &model,
            options(MemoryPlan::default(), reference_kernels),
            false,
        )
        .ops;
        assert!(fastest.len() > 100);
        for plan in MemoryPlan::ALL {
            assert_eq!(
                recorded_ops(&tiny, &model, options(plan, reference_kernels), false).ops,
                fastest
            );
        }
    }
}

#[test]
fn streamed_weights_are_in_memory_a_layer_at_a_time() {
    let _serial = SERIAL.lock();
    let tiny = TinyModel::new();
    let model = tiny.load(DType::F32, ExecutionOptions::default());
    let fastest = recorded_ops(&tiny, &model, options(MemoryPlan::default(), false), true).most_mapped;
    let _leave = render(&model, side(&tiny), 1, 1.0, options(MemoryPlan::Streamed, false));
    let streamed = recorded_ops(&tiny, &model, options(MemoryPlan::Streamed, false), true).most_mapped;
    println!("{fastest} bytes mapped at most, streamed {streamed}");
    assert!(streamed < fastest / 2, "{streamed} of {fastest}");
}

/// Prints the peaks with the limits of the product in `f32`, about twice what a GPU takes in `f16` besides
/// its weights.
#[test]
#[ignore = "prints a table: needs weights in LATENTFARM_WEIGHTS, and with the published sizes minutes a plan"]
fn peaks_of_a_reference_pass() {
    let _serial = SERIAL.lock();
    let dir = std::env::var_os("LATENTFARM_WEIGHTS").unwrap();
    let checkpoint = Checkpoint::open(Path::new(&dir)).unwrap();
    let latent_side = usize::try_from(checkpoint.resolution_px()).unwrap() / 8;
    for (plan, batch) in [
        (MemoryPlan::BatchedGuidance, 1),
        (MemoryPlan::Sliced, 1),
        (MemoryPlan::TwoPassNorm, 1),
        (MemoryPlan::BatchedGuidance, 2),
    ] {
        // The weights are streamed, so that the peak consists of activations.
        let options = ExecutionOptions {
            reference_kernels: true,
            offload: true,
            streamed: true,
            ..ExecutionOptions::of(plan)
        };
        let run = &Run::new(options);
        let model = LatentSync::load(&checkpoint, &Device::Cpu, DType::F32, options).unwrap();
        let (tokens, width) = model.audio_shape();
        let ones = |shape: &[usize]| Tensor::ones(shape, DType::F32, &Device::Cpu).unwrap();
        let latents = ones(&[batch, 13, 16, latent_side, latent_side]);
        let audio = ones(&[batch, 16, tokens, width]);
        let started = std::time::Instant::now();
        let bytes = peak(|| drop(model.unet().forward(run, &latents, 501, &audio).unwrap()));
        println!(
            "{plan}, batch of {batch}: {:.0} MiB, {:.1} s",
            bytes as f64 / 1_048_576.0,
            started.elapsed().as_secs_f64()
        );
    }
}
