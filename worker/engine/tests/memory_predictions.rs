//! Compares the host memory that an engine really takes, as its supervisor measures it over a task of two
//! windows, with what is predicted for it.
//!
//! Full-size weights take minutes a plan: `the_need_of_full_size_weights_is_measured` measures those in the
//! folder that `LATENTFARM_FULL_WEIGHTS` names, with faces of `LATENTFARM_FULL_PX`. The lines that it
//! printed, for `latentfarm-worker weights synth --size full` and two threads on Linux, are in
//! `memory_predictions/full.jsonl`, which predictions are held to always.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    unreachable_pub,
    reason = "helpers of tests are tests too"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use latentfarm_common::audio::windows::pcm_range;
use latentfarm_common::digest::Digest;
use latentfarm_common::time::FrameRate;
use latentfarm_common::wire::engine::{AudioRequest, EngineReply, EngineRequest, WindowRequest};
use latentfarm_common::wire::job::{AudioWindows, ModelSpec, WeightsKind};
use latentfarm_common::wire::memory::{DeviceKind, MemoryPlan};
use latentfarm_common::wire::pipe;
use latentfarm_engine::environment;
use latentsync::Checkpoint;
use latentsync::cost::compute::ComputeSpec;
use latentsync::cost::prediction::MemoryPredictor;
use latentsync::cost::shape::ModelShape;
use latentsync::synth::{Size, synthesize};

/// Share of the measured memory by which a prediction may be off.
const TOLERANCE: f64 = 0.15;
/// MiB by which the resident set may be off: how much freed memory the allocator keeps depends on the speed
/// of the machine. For large weights the difference does not matter.
const KEPT_MIB: f64 = 40.0;
/// Number of samples in ten seconds of speech.
const SAMPLES: u64 = 160_000;
const THREADS: usize = 2;

/// An engine in a process of its own, so that nothing else is in its resident set.
struct EngineProcess {
    child: Child,
    to: ChildStdin,
    from: ChildStdout,
}

impl Drop for EngineProcess {
    fn drop(&mut self) {
        // The process may have ended already.
        let _killed = self.child.kill();
        let _waited = self.child.wait();
    }
}

impl EngineProcess {
    fn start() -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_latentfarm-engine"))
            .envs(environment(THREADS))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (to, from) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self { child, to, from }
    }

    /// Has the engine serve a request, and returns the most bytes that tensors and buffers used meanwhile.
    fn answer(&mut self, request: &EngineRequest) -> u64 {
        pipe::write(&mut self.to, request).unwrap();
        let mut peak = 0;
        loop {
            match pipe::read::<EngineReply>(&mut self.from).unwrap().unwrap() {
                EngineReply::Progress { memory, .. } => peak = peak.max(memory.live_peak),
                EngineReply::Loaded { memory, .. }
                | EngineReply::AudioReady { memory, .. }
                | EngineReply::Window { memory, .. } => return peak.max(memory.live_peak),
                EngineReply::Failed(failure) => panic!("{failure:?}"),
            }
        }
    }

    /// Returns the peak of the resident set in MiB.
    fn peak_mib(&self) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        let kib: f64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        kib / 1024.0
    }
}

struct Task<'a> {
    weights: &'a Path,
    side: usize,
    plan: MemoryPlan,
    guided: bool,
    windows: usize,
}

/// Runs a task, and returns the peaks in MiB of the resident set, and of tensors and workspaces.
fn measured(task: &Task) -> (f64, f64) {
    let identity = Checkpoint::open(task.weights).unwrap().identity();
    let track = Digest::of(b"track");
    let layout = AudioWindows::Overlapping;
    let range = pcm_range(0, SAMPLES, layout);
    let window = EngineRequest::Window(WindowRequest {
        model: ModelSpec {
            weights: identity,
            weights_kind: WeightsKind::Synthetic,
            resolution_px: u32::try_from(task.side).unwrap(),
            steps: 1,
            guidance_scale: if task.guided { 1.5 } else { 1.0 },
            seed: 1,
        },
        track,
        track_samples: SAMPLES,
        layout,
        first_frame: 0,
        rate: FrameRate::FPS_25,
        faces: (0..ModelShape::FRAMES * 3 * task.side * task.side)
            .map(|at| u8::try_from(at * 31 % 251).unwrap())
            .collect(),
        silence: None,
        plan: task.plan,
    });
    let mut requests = vec![
        EngineRequest::Load {
            weights_dir: task.weights.display().to_string(),
            expected: identity,
            plan: task.plan,
        },
        EngineRequest::Audio(AudioRequest {
            track,
            track_samples: SAMPLES,
            layout,
            log_mel_max: 1.0,
            window: 0,
            pcm: (range.start..range.end)
                .map(|at| i16::try_from(at * 997 % 20_011).unwrap() - 10_000)
                .collect(),
        }),
        window,
    ];
    if task.windows > 1 {
        requests.extend(requests.last().cloned());
    }
    let mut engine = EngineProcess::start();
    let live: Vec<u64> = requests.iter().map(|request| engine.answer(request)).collect();
    println!("live by request: {live:?}");
    let highest = live.into_iter().max().unwrap_or(0);
    (engine.peak_mib(), mib(highest.saturating_sub(packing_buffers())))
}

/// Returns the bytes that the matrix kernels keep for packed operands once each thread has computed: a buffer
/// as large as the second-level cache for every thread. No operation is predicted to need them, because they
/// depend on the machine alone; they are part of the constant that stands for the process.
fn packing_buffers() -> u64 {
    let second_cache = gemm_common::cache::CACHE_INFO[1];
    (THREADS * second_cache.cache_bytes) as u64
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// The peaks of a task in MiB.
#[derive(serde::Serialize, serde::Deserialize)]
struct Record {
    side: usize,
    plan: MemoryPlan,
    guided: bool,
    /// The peak of the resident set.
    resident_mib: f64,
    /// The peak of tensors and workspaces in use.
    live_mib: f64,
}

/// Returns a line that compares `record` with its prediction, and whether the prediction is near enough.
fn compare_record(shape: &ModelShape, record: &Record) -> (String, bool) {
    let &Record {
        side,
        plan,
        guided,
        resident_mib,
        live_mib,
    } = record;
    let shape = shape.clone().at(side);
    let spec = ComputeSpec {
        threads: THREADS,
        ..ComputeSpec::of(DeviceKind::Cpu)
    };
    let mut predictor = MemoryPredictor::new(shape.clone(), spec).unwrap();
    let explained = predictor.predict(plan, guided);
    let need = predictor.needs(guided).of(plan);
    let tightest = explained.tightest;
    // Weights of layers are used in their mapped files; the other weights are allocated.
    let mapped = mib(tightest.weights) - mib(shape.weights().unwrap().rest() as u64 * 4);
    let counted = live_mib + mapped.max(0.0);
    let ratio = mib(tightest.peak) / counted;
    let off = (need as f64 - resident_mib).abs();
    let good = (ratio - 1.0).abs() <= TOLERANCE && off <= KEPT_MIB.max(TOLERANCE * resident_mib);
    let line = format!(
        "{side} px {plan} guided {guided}: counted {counted:.1} MiB, predicted {:.1} ({ratio:.3}); resident \
         {resident_mib:.0}, predicted {need}{}; {explained}",
        mib(tightest.peak),
        if good { "" } else { " OFF" }
    );
    (line, good)
}

fn assert_predictions(shape: &ModelShape, records: &[Record]) {
    let (lines, good): (Vec<String>, Vec<bool>) =
        records.iter().map(|record| compare_record(shape, record)).unzip();
    let table = lines.join("\n");
    println!("{table}");
    assert!(!good.is_empty() && good.into_iter().all(|good| good), "\n{table}");
}

/// Measures tasks and compares the predictions with them.
fn compare(weights: &Path, windows: usize, tasks: &[(usize, MemoryPlan, bool)]) {
    let measure = |&(side, plan, guided): &(usize, MemoryPlan, bool)| {
        let (resident_mib, live_mib) = measured(&Task {
            weights,
            side,
            plan,
            guided,
            windows,
        });
        let record = Record {
            side,
            plan,
            guided,
            resident_mib: resident_mib.round(),
            live_mib: live_mib.round(),
        };
        println!("{}", serde_json::to_string(&record).unwrap());
        record
    };
    let records: Vec<Record> = tasks.iter().map(measure).collect();
    assert_predictions(&ModelShape::of(&Checkpoint::open(weights).unwrap()), &records);
}

fn synthetic(size: Size) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    synthesize(dir.path(), size, 3).unwrap();
    dir
}

#[test]
fn the_need_of_tiny_weights_is_predicted() {
    let weights = synthetic(Size::Tiny);
    let tasks = [
        (64, MemoryPlan::BatchedGuidance, false),
        (64, MemoryPlan::Streamed, true),
        (128, MemoryPlan::BatchedGuidance, true),
        (128, MemoryPlan::Sliced, false),
        (256, MemoryPlan::BatchedGuidance, false),
        (256, MemoryPlan::Offload, false),
    ];
    compare(weights.path(), 2, &tasks);
}

#[test]
fn the_need_of_small_weights_is_predicted() {
    let weights = synthetic(Size::Small);
    let tasks = [
        (128, MemoryPlan::BatchedGuidance, false),
        (256, MemoryPlan::BatchedGuidance, false),
        (256, MemoryPlan::Sliced, true),
        (256, MemoryPlan::Streamed, false),
    ];
    compare(weights.path(), 2, &tasks);
}

#[test]
#[ignore = "needs weights of the published sizes in LATENTFARM_FULL_WEIGHTS, and minutes a plan"]
fn the_need_of_full_size_weights_is_measured() {
    let weights = PathBuf::from(std::env::var_os("LATENTFARM_FULL_WEIGHTS").unwrap());
    let side = std::env::var("LATENTFARM_FULL_PX").map_or(256, |text| text.parse().unwrap());
    let tasks = [
        (side, MemoryPlan::Streamed, false),
        (side, MemoryPlan::Offload, false),
        (side, MemoryPlan::Sliced, true),
        (side, MemoryPlan::BatchedGuidance, false),
    ];
    compare(&weights, 1, &tasks);
}

#[test]
fn the_need_of_full_size_weights_is_what_was_measured() {
    let text = fs::read_to_string(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/memory_predictions/full.jsonl"
    ))
    .unwrap();
    let records: Vec<Record> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_predictions(&ModelShape::published(256).unwrap(), &records);
}
