//! An engine in this process, with small weights and the counting allocator's view of it.

pub mod tight;

use std::process::Command;

use candle_core::DType;
use latentfarm_common::digest::Digest;
use latentfarm_common::wire::engine::{EngineFailure, EngineReply, EngineRequest, EngineStage};
use latentfarm_common::wire::memory::{MemoryPlan, MemorySample};
use latentfarm_engine::memory::counting::live_bytes;
use latentfarm_engine::memory::device::{self, EngineDevice, EngineMemory};
use latentfarm_engine::memory::fault::Faults;
use latentfarm_engine::memory::guard::Cleanup;
use latentfarm_engine::{Engine, EngineSettings, environment, made_up};
use latentsync::synth::{Size, synthesize};
use latentsync::{Checkpoint, Stopped};

const CHILD: &str = "LATENTFARM_TEST_IN_A_CHILD";

/// Does the work of `test` in another process of this binary, with the environment that engines are given: its
/// allocator keeps what theirs keeps, and errors carry no backtraces, whose tables are never freed.
pub fn as_an_engine(test: &str, work: impl FnOnce()) {
    if std::env::var_os(CHILD).is_some() {
        one_thread();
        return work();
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .envs(environment(1))
        .env(CHILD, "1")
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    println!("{told}");
    eprintln!("{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && told.contains("1 passed"));
}

/// Has everything in parallel run on this thread, and must come before any of it: each thread keeps buffers of its own
/// from its first work on, so with several, bytes would depend on who worked.
fn one_thread() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1);
    pool.use_current_thread().build_global().unwrap();
}

/// Weights that differ by their seed.
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
        made_up::load(self.dir.path(), &self.checkpoint, plan)
    }

    pub fn audio(track: &str) -> EngineRequest {
        made_up::audio(Digest::of(track.as_bytes()))
    }

    pub fn window(&self, steps: u32, guidance_scale: f32, plan: MemoryPlan) -> EngineRequest {
        let model = made_up::model(&self.checkpoint, steps, guidance_scale);
        made_up::window(model, Digest::of(b"track"), plan)
    }
}

pub fn engine(memory: Option<Box<dyn EngineMemory>>, name: &str, faults: &[&str]) -> Engine {
    engine_in(DType::F32, memory, name, faults)
}

pub fn engine_in(dtype: DType, memory: Option<Box<dyn EngineMemory>>, name: &str, faults: &[&str]) -> Engine {
    let opened = device::open(name, None).unwrap();
    Engine::new(EngineSettings {
        dtype,
        cleanup: Cleanup::default(),
        faults: Faults::new(faults.iter().map(|text| text.parse().unwrap()).collect(), None),
        device: EngineDevice {
            memory: memory.unwrap_or(opened.memory),
            ..opened
        },
    })
}

/// Answers a request that nothing stops.
pub fn ask(engine: &mut Engine, request: EngineRequest) -> EngineReply {
    engine.answer(request, &mut |_, _| Ok(()))
}

/// An engine with the weights loaded and the track `track` encoded.
pub fn ready(engine: &mut Engine, weights: &Weights) {
    let loaded = ask(engine, weights.load());
    assert!(matches!(loaded, EngineReply::Loaded { .. }), "{loaded:?}");
    let heard = ask(engine, Weights::audio("track"));
    assert!(matches!(heard, EngineReply::AudioReady { .. }), "{heard:?}");
}

/// Renders a window; its faces, and all samples on the way.
pub fn watched(engine: &mut Engine, request: EngineRequest) -> (Vec<u8>, Vec<(EngineStage, MemorySample)>) {
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

/// Renders a window; its faces.
pub fn rendered(engine: &mut Engine, request: EngineRequest) -> Vec<u8> {
    watched(engine, request).0
}

/// A request that must fail; how it did.
pub fn failed(engine: &mut Engine, request: EngineRequest) -> EngineFailure {
    match ask(engine, request) {
        EngineReply::Failed(failure) => failure,
        other => panic!("it did not fail: {other:?}"),
    }
}

/// A window that is stopped as soon as `at` is told.
pub fn stopped(engine: &mut Engine, request: EngineRequest, at: EngineStage) -> EngineFailure {
    let mut stop = |stage, _| if stage == at { Err(Stopped) } else { Ok(()) };
    match engine.answer(request, &mut stop) {
        EngineReply::Failed(failure) => failure,
        other => panic!("it was not stopped: {other:?}"),
    }
}

/// Live bytes now, with nothing of a request alive.
pub fn live() -> u64 {
    live_bytes()
}
