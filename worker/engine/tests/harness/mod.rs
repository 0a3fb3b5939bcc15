//! An engine in this process with small weights, for tests that count its memory.

pub mod stage_budget;

use std::process::Command;

use candle_core::DType;
use latentfarm_common::digest::Digest;
use latentfarm_common::wire::engine::{EngineFailure, EngineReply, EngineRequest, EngineStage};
use latentfarm_common::wire::memory::{MemoryPlan, MemorySample};
use latentfarm_engine::memory::cleanup::CleanupPolicy;
use latentfarm_engine::memory::counting::live_bytes;
use latentfarm_engine::memory::device::{self, EngineDevice, EngineMemory};
use latentfarm_engine::memory::fault_injection::FaultInjector;
use latentfarm_engine::{Engine, EngineSettings, dummy_requests, environment};
use latentsync::synth::{Size, synthesize};
use latentsync::{Checkpoint, Stopped};

const CHILD: &str = "LATENTFARM_TEST_IN_A_CHILD";

/// Runs the `work` of `test` in another process of this binary, with the environment of an engine: its
/// allocator keeps what that of an engine keeps, and errors carry no backtraces, whose tables are never
/// freed.
pub fn as_an_engine(test: &str, work: impl FnOnce()) {
    if std::env::var_os(CHILD).is_some() {
        one_thread();
        return work();
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--include-ignored"])
        .envs(environment(1))
        .env(CHILD, "1")
        .output()
        .unwrap();
    let output_text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && output_text.contains("1 passed"),
        "{output_text}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Makes all parallel work run on this thread; it must be called before any. Each thread keeps buffers from
/// its first work on, so that with several threads the bytes in use would depend on which of them worked.
fn one_thread() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1);
    pool.use_current_thread().build_global().unwrap();
}

/// Random weights, which differ by their seed.
pub struct Weights {
    dir: tempfile::TempDir,
    checkpoint: Checkpoint,
}

impl Weights {
    pub fn tiny(seed: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        synthesize(dir.path(), Size::Tiny, seed).unwrap();
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        Self { dir, checkpoint }
    }

    pub fn load(&self) -> EngineRequest {
        self.load_under(MemoryPlan::default())
    }

    pub fn load_under(&self, plan: MemoryPlan) -> EngineRequest {
        dummy_requests::load(self.dir.path(), &self.checkpoint, plan)
    }

    pub fn audio(track: &str) -> EngineRequest {
        dummy_requests::audio(Digest::of(track.as_bytes()))
    }

    pub fn window(&self, steps: u32, guidance_scale: f32, plan: MemoryPlan) -> EngineRequest {
        let model = dummy_requests::model(&self.checkpoint, steps, guidance_scale);
        dummy_requests::window(model, Digest::of(b"track"), plan)
    }
}

pub fn engine(memory: Option<Box<dyn EngineMemory>>, name: &str, faults: &[&str]) -> Engine {
    engine_in(DType::F32, memory, name, faults)
}

pub fn engine_in(dtype: DType, memory: Option<Box<dyn EngineMemory>>, name: &str, faults: &[&str]) -> Engine {
    let opened = device::open(name, None).unwrap();
    Engine::new(EngineSettings {
        dtype,
        cleanup: CleanupPolicy::default(),
        faults: FaultInjector::new(faults.iter().map(|text| text.parse().unwrap()).collect(), None),
        device: EngineDevice {
            memory: memory.unwrap_or(opened.memory),
            ..opened
        },
    })
}

/// Serves a request without stopping it.
pub fn answer(engine: &mut Engine, request: EngineRequest) -> EngineReply {
    engine.answer(request, &mut |_, _| Ok(()))
}

/// Loads the weights into the engine and encodes the track `track`.
pub fn ready(engine: &mut Engine, weights: &Weights) {
    let loaded = answer(engine, weights.load());
    assert!(matches!(loaded, EngineReply::Loaded { .. }), "{loaded:?}");
    let encoded = answer(engine, Weights::audio("track"));
    assert!(matches!(encoded, EngineReply::AudioReady { .. }), "{encoded:?}");
}

/// Renders a window and returns its faces, and the memory sample after every frame and step.
pub fn render_with_samples(
    engine: &mut Engine,
    request: EngineRequest,
) -> (Vec<u8>, Vec<(EngineStage, MemorySample)>) {
    let mut samples = Vec::new();
    let reply = engine.answer(request, &mut |stage, sample| {
        samples.push((stage, sample));
        Ok(())
    });
    match reply {
        EngineReply::Window { faces, .. } => (faces, samples),
        other => panic!("{other:?}"),
    }
}

/// Renders a window and returns its faces.
pub fn rendered(engine: &mut Engine, request: EngineRequest) -> Vec<u8> {
    render_with_samples(engine, request).0
}

/// Serves a request that must fail, and returns the failure.
pub fn failed(engine: &mut Engine, request: EngineRequest) -> EngineFailure {
    match answer(engine, request) {
        EngineReply::Failed(failure) => failure,
        other => panic!("it did not fail: {other:?}"),
    }
}

/// Serves a request that is stopped as soon as the stage `at` is reported, and returns the failure.
pub fn stopped(engine: &mut Engine, request: EngineRequest, at: EngineStage) -> EngineFailure {
    let mut stop = |stage, _| if stage == at { Err(Stopped) } else { Ok(()) };
    match engine.answer(request, &mut stop) {
        EngineReply::Failed(failure) => failure,
        other => panic!("it was not stopped: {other:?}"),
    }
}

/// Returns the bytes in use now; replies must be dropped before.
pub fn live() -> u64 {
    live_bytes()
}
