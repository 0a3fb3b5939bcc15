//! Every memory plan against the fastest: what it computes, and what memory it takes.
//!
//! Synthetic weights and small limits, so that everything is sliced that can be. `reference_kernels` let the CPU work as
//! a GPU would, out of tensor operations, with weights that come and go.

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
use latentfarm_engine::memory::counting::{Counting, live_bytes, take_peak};
use latentsync::cost::plan::TOLERANCE;
use latentsync::denoise::SamplingParams;
use latentsync::noise::Noise;
use latentsync::synth::{Size, synthesize};
use latentsync::{Checkpoint, ExecutionOptions, Faces, LatentSync, Run};
use latentsync::{Hooks, Op};

#[global_allocator]
static ALLOCATOR: Counting<System> = Counting(System);

/// One test at a time: all count in the same numbers where a runner keeps them in one process.
static ALONE: Mutex<()> = Mutex::new(());

/// The options of a plan, with limits that make slices of a tiny model's layers.
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

struct Farm {
    checkpoint: Checkpoint,
    dir: tempfile::TempDir,
}

impl Farm {
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

/// What a window gives, as numbers: the latents, then the faces.
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

/// One step of `frames` frames.
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

fn side(farm: &Farm) -> usize {
    usize::try_from(farm.checkpoint.resolution_px()).unwrap()
}

/// Largest difference against the largest value.
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
    let _alone = ALONE.lock();
    let farm = Farm::new();
    let model = farm.load(DType::F32, ExecutionOptions::default());
    let fastest = render(
        &model,
        side(&farm),
        16,
        2.0,
        options(MemoryPlan::default(), false),
    )
    .bits();
    for plan in MemoryPlan::ALL {
        let other = render(&model, side(&farm), 16, 2.0, options(plan, false)).bits();
        assert!(other == fastest, "{plan}");
    }
}

#[test]
fn reference_plans_give_the_same_within_their_tolerance() {
    let _alone = ALONE.lock();
    let farm = Farm::new();
    // A half type rounds what the slices change by a few units, now and then to another neighbour.
    for (dtype, allowed) in [(DType::F32, TOLERANCE), (DType::F16, 5e-3), (DType::BF16, 4e-2)] {
        let model = farm.load(dtype, options(MemoryPlan::default(), true));
        let all = MemoryPlan::ALL.map(|plan| render(&model, side(&farm), 2, 2.0, options(plan, true)));
        for (plan, other) in MemoryPlan::ALL.iter().zip(&all) {
            let latents = distance(&other.latents, &all[0].latents);
            let faces = distance(&other.faces, &all[0].faces);
            println!("{dtype:?} {plan}: latents {latents:.1e}, faces {faces:.1e}");
            assert!(latents <= allowed && faces <= allowed, "{plan} as {dtype:?}");
        }
        // The ladder calls these exact.
        for plan in [MemoryPlan::TwoPassNorm, MemoryPlan::Offload, MemoryPlan::Streamed] {
            let before = &all[plan.index() - 1];
            assert!(all[plan.index()].bits() == before.bits(), "{plan} as {dtype:?}");
        }
    }
}

/// Peak of live bytes while `work` runs, above those before it.
fn peak(work: impl FnOnce()) -> u64 {
    let before = live_bytes();
    take_peak();
    work();
    take_peak() - before
}

#[test]
fn no_plan_takes_more_memory_than_the_one_before_it() {
    let _alone = ALONE.lock();
    // One thread: how many work at the same moment, each with buffers of its own, is chance.
    let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    one.install(compare_peaks);
}

fn compare_peaks() {
    let farm = Farm::new();
    for (dtype, reference_kernels, frames) in [
        (DType::F32, false, 16),
        (DType::F32, true, 2),
        (DType::F16, true, 2),
    ] {
        // Loading included, as the plan decides what is loaded; once before, so that nothing is made for the first time.
        let take = |plan| {
            let options = options(plan, reference_kernels);
            render(&farm.load(dtype, options), side(&farm), frames, 2.0, options);
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
    let _alone = ALONE.lock();
    let farm = Farm::new();
    // What the matrix kernels keep for themselves is there from the first window on.
    let first = farm.load(DType::F16, options(MemoryPlan::default(), true));
    render(&first, side(&farm), 2, 1.0, options(MemoryPlan::default(), true));
    drop(first);
    let nothing = live_bytes();
    let model = farm.load(DType::F16, options(MemoryPlan::default(), true));
    let resident = live_bytes() - nothing;
    let run = |plan| {
        let rendered = render(&model, side(&farm), 2, 1.0, options(plan, true)).bits();
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
    // Whisper comes back only when speech is next encoded.
    assert!(after[3] > after[1] && after[3] <= after[0], "{after:?}");
}

/// Bytes of the files in `dir` that this process holds in memory as mapped pages.
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
    let _alone = ALONE.lock();
    let farm = Farm::new();
    let model = farm.load(DType::F32, ExecutionOptions::default());
    let run = |plan| {
        render(&model, side(&farm), 2, 1.0, options(plan, false));
        mapped_resident(farm.dir.path())
    };
    let fastest = run(MemoryPlan::default());
    assert!(fastest > 500_000, "{fastest} bytes of weights are mapped");
    assert_eq!(run(MemoryPlan::Offload), 0);
    assert!(run(MemoryPlan::default()) > 500_000);
    assert_eq!(run(MemoryPlan::Streamed), 0);
}

/// Keeps what it hears, and the most bytes of the UNet's and the autoencoder's files that were in memory then.
#[derive(Default)]
struct Heard {
    ops: Vec<Op>,
    dir: Option<std::path::PathBuf>,
    most_mapped: u64,
}

impl Hooks for Heard {
    fn before(&mut self, op: Op, _x: &Tensor) -> candle_core::Result<()> {
        self.ops.push(op);
        if let Some(dir) = &self.dir {
            self.most_mapped = self.most_mapped.max(mapped_resident(dir));
        }
        Ok(())
    }
}

fn heard(farm: &Farm, model: &LatentSync, options: ExecutionOptions, watch: bool) -> Heard {
    let heard = RefCell::new(Heard {
        dir: watch.then(|| farm.dir.path().to_owned()),
        ..Heard::default()
    });
    let run = &Run::new(options).with_hooks(&heard);
    let latent_side = side(farm) / 8;
    let (tokens, width) = model.audio_shape();
    let latents = Tensor::ones((1, 13, 16, latent_side, latent_side), DType::F32, &Device::Cpu).unwrap();
    let audio = Tensor::ones((1, 16, tokens, width), DType::F32, &Device::Cpu).unwrap();
    model.unet().forward(run, &latents, 501, &audio).unwrap();
    heard.into_inner()
}

#[test]
fn hooks_are_called_with_the_same_under_every_plan() {
    let _alone = ALONE.lock();
    let farm = Farm::new();
    for reference_kernels in [false, true] {
        let model = farm.load(DType::F32, options(MemoryPlan::default(), reference_kernels));
        let fastest = heard(
            &farm,
            &model,
            options(MemoryPlan::default(), reference_kernels),
            false,
        )
        .ops;
        assert!(fastest.len() > 100);
        for plan in MemoryPlan::ALL {
            assert_eq!(
                heard(&farm, &model, options(plan, reference_kernels), false).ops,
                fastest
            );
        }
    }
}

#[test]
fn streamed_weights_are_in_memory_a_layer_at_a_time() {
    let _alone = ALONE.lock();
    let farm = Farm::new();
    let model = farm.load(DType::F32, ExecutionOptions::default());
    let fastest = heard(&farm, &model, options(MemoryPlan::default(), false), true).most_mapped;
    let _leave = render(&model, side(&farm), 1, 1.0, options(MemoryPlan::Streamed, false));
    let streamed = heard(&farm, &model, options(MemoryPlan::Streamed, false), true).most_mapped;
    println!("{fastest} bytes mapped at most, streamed {streamed}");
    assert!(streamed < fastest / 2, "{streamed} of {fastest}");
}

/// With the real limits, in `f32`: about twice what a GPU takes in `f16` besides its weights.
#[test]
#[ignore = "prints a table: needs weights in LATENTFARM_WEIGHTS, and with the published sizes minutes a plan"]
fn peaks_of_a_reference_pass() {
    let _alone = ALONE.lock();
    let dir = std::env::var_os("LATENTFARM_WEIGHTS").unwrap();
    let checkpoint = Checkpoint::open(Path::new(&dir)).unwrap();
    let latent_side = usize::try_from(checkpoint.resolution_px()).unwrap() / 8;
    for (plan, batch) in [
        (MemoryPlan::BatchedGuidance, 1),
        (MemoryPlan::Sliced, 1),
        (MemoryPlan::TwoPassNorm, 1),
        (MemoryPlan::BatchedGuidance, 2),
    ] {
        // Streamed, so that the peak is the activations' and not the weights'.
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
