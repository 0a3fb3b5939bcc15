//! The engine: how each kind of request is served. However a request ends, the memory that it took is freed.

use std::cell::RefCell;
use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::rc::Rc;
use std::time::Instant;

use latentfarm_common::digest::Digest;
use latentfarm_common::error::one_line;
use latentfarm_common::time::WINDOW_FRAMES;
use latentfarm_common::wire::engine::{
    AudioRequest, EngineFailure, EngineReply, EngineRequest, EngineTimings, WindowRequest,
};
use latentfarm_common::wire::memory::{DeviceKind, MemoryPlan, MemorySample, MemoryStage};

use super::audio_cache::AudioCache;
use super::classify::ErrorClass;
use super::memory_monitor::{MemoryMonitor, SharedMonitor};
use super::settings::EngineSettings;
use super::window_stages::{ProgressFn, WindowStages};
use crate::memory::cleanup::{CleanupGuard, CleanupScope};
use crate::memory::device::StageWork;
use crate::memory::fault_injection::RequestKind;
use crate::numerics_fingerprint;
use latentsync::cost::plan::plans_changing_bits;
use latentsync::{AudioFeatures, Checkpoint, ExecutionOptions, LatentSync, ModelError, Run};

const MIB: u64 = 1 << 20;

/// A model on a device, and what is kept between requests: the loaded weights and encoded audio. An engine
/// may be used only on the thread that opened its device.
pub struct Engine {
    // Fields are dropped in this order: tensors before the device that they are on.
    loaded: Option<LoadedModel>,
    audio: AudioCache,
    monitor: SharedMonitor,
    target: ComputeTarget,
    /// The memory plan of the current task.
    plan: MemoryPlan,
    poisoned: bool,
}

/// What the engine computes on and with.
struct ComputeTarget {
    device: candle_core::Device,
    /// Text form of the device: `cpu`, `cuda:0` or `sim:PATH`.
    name: String,
    /// The device's part of the numerics fingerprint: `cpu`, or a GPU's model.
    computes_as: String,
    dtype: candle_core::DType,
}

/// A model whose weights are loaded.
struct LoadedModel {
    /// The digest that identifies the checkpoint.
    identity: Digest,
    model: LatentSync,
}

impl Engine {
    /// Makes an engine without a model; [`EngineRequest::Load`] loads one.
    pub fn new(settings: EngineSettings) -> Self {
        let device = settings.device;
        let monitor = MemoryMonitor::new(device.memory, settings.cleanup, settings.faults);
        Self {
            loaded: None,
            audio: AudioCache::default(),
            monitor: Rc::new(RefCell::new(monitor)),
            target: ComputeTarget {
                device: device.device,
                name: device.name,
                computes_as: device.computes_as,
                dtype: settings.dtype,
            },
            plan: MemoryPlan::default(),
            poisoned: false,
        }
    }

    /// Returns whether the device can no longer be used. The process must then end without dropping its
    /// tensors.
    pub fn is_poisoned(&self) -> bool {
        self.poisoned
    }

    /// Serves one request and returns its reply. A panic becomes a failed reply, and poisons the engine
    /// unless the device survives panics.
    pub fn answer(&mut self, request: EngineRequest, on_progress: ProgressFn) -> EngineReply {
        // A panic can interrupt changes of two things: the audio cache, each of whose entries is whole, and
        // the monitor, whose state is reset with every request.
        let outcome = catch_unwind(AssertUnwindSafe(|| self.perform(request, on_progress)));
        let outcome = outcome.unwrap_or_else(|panic| {
            self.poisoned = !self.monitor.borrow().memory.survives_panic();
            if self.loaded.is_none() {
                self.monitor.borrow_mut().memory.unloaded();
            }
            Err(EngineFailure::Other {
                message: format!("the engine panicked: {}", panic_message(panic.as_ref())),
            })
        });
        outcome.unwrap_or_else(EngineReply::Failed)
    }

    fn perform(
        &mut self,
        request: EngineRequest,
        on_progress: ProgressFn,
    ) -> Result<EngineReply, EngineFailure> {
        match request {
            EngineRequest::Load {
                weights_dir,
                expected,
                plan,
            } => {
                self.load(Path::new(&weights_dir), expected, plan)?;
                Ok(EngineReply::Loaded {
                    numerics_fingerprint: self.numerics_fingerprint(plan),
                    device: self.target.name.clone(),
                    memory: self.sample(),
                })
            }
            EngineRequest::Audio(request) => {
                let started = Instant::now();
                let cached = self.encode_audio(&request)?;
                let elapsed = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
                Ok(EngineReply::AudioReady {
                    cached,
                    elapsed_ms: if cached { 0 } else { elapsed },
                    memory: self.sample(),
                })
            }
            EngineRequest::Window(request) => {
                let (faces, timings) = self.render(&request, on_progress)?;
                Ok(EngineReply::Window {
                    faces,
                    timings,
                    memory: self.sample(),
                })
            }
        }
    }

    /// Returns the numerics fingerprint of windows under `plan`, with the plan's steps that change bits.
    fn numerics_fingerprint(&self, plan: MemoryPlan) -> String {
        let kind = if self.target.device.is_cpu() {
            DeviceKind::Cpu
        } else {
            DeviceKind::Cuda
        };
        let base = numerics_fingerprint(&self.target.computes_as, self.target.dtype);
        match plans_changing_bits(kind, plan) {
            Some(steps) => format!("{base}+{steps}"),
            None => base,
        }
    }

    /// Loads the checkpoint in `dir` unless it is loaded already. Every task begins with this request, so
    /// that the task before it is over.
    fn load(&mut self, dir: &Path, expected: Digest, plan: MemoryPlan) -> Result<(), EngineFailure> {
        drop(CleanupGuard::new(&self.monitor, CleanupScope::Task));
        self.plan = plan;
        let known = self.loaded.as_ref().filter(|loaded| loaded.identity == expected);
        if let Some(loaded) = known {
            loaded.model.evict_idle(ExecutionOptions::of(plan));
            self.monitor.borrow_mut().change_plan(plan);
            return Ok(());
        }
        // The old model is dropped first: a device that holds one model may not hold two.
        self.loaded = None;
        self.audio.clear();
        self.monitor.borrow_mut().memory.unloaded();
        let _cleanup = CleanupGuard::new(&self.monitor, CleanupScope::Window);
        self.monitor
            .borrow_mut()
            .begin_request(RequestKind::Load, work(MemoryStage::Load, plan, false));
        let started = Instant::now();
        let unfit = |message: String| EngineFailure::Unfit { message };
        let checkpoint = Checkpoint::open(dir).map_err(|error| unfit(one_line(&error)))?;
        let identity = checkpoint.identity();
        if identity != expected {
            return Err(unfit(format!(
                "the weights in `{}` are {identity}, the job was planned with {expected}",
                dir.display()
            )));
        }
        let model = self.load_model(&checkpoint).inspect_err(|_failure| {
            self.monitor.borrow_mut().memory.unloaded();
        })?;
        self.monitor.borrow_mut().memory.loaded(&checkpoint);
        self.loaded = Some(LoadedModel { identity, model });
        tracing::info!(
            weights = %dir.display(),
            dtype = self.target.dtype.as_str(),
            seconds = started.elapsed().as_secs_f32(),
            "model loaded"
        );
        Ok(())
    }

    fn load_model(&mut self, checkpoint: &Checkpoint) -> Result<LatentSync, EngineFailure> {
        let fits = self.monitor.borrow_mut().begin_load(checkpoint);
        fits.map_err(|shortage| self.failure(&shortage))?;
        let ComputeTarget { device, dtype, .. } = &self.target;
        let loaded = LatentSync::load(checkpoint, device, *dtype, ExecutionOptions::of(self.plan));
        let model = loaded.map_err(|error| match self.failure(&error) {
            EngineFailure::Other { message } => EngineFailure::Unfit { message },
            other => other,
        })?;
        // A fault that is injected here has a whole model to free.
        let injected = self.monitor.borrow_mut().inject_between_operations();
        injected.map_err(|error| self.failure(&error)).map(|()| model)
    }

    /// Encodes an audio window unless it is cached; returns whether it was.
    fn encode_audio(&mut self, request: &AudioRequest) -> Result<bool, EngineFailure> {
        if self.audio.touch(request.track, request.layout, request.window) {
            return Ok(true);
        }
        if request.pcm.is_empty() {
            return Err(EngineFailure::AudioMissing {
                window: request.window,
            });
        }
        let features = self.encode(request)?;
        self.audio.insert(request, features);
        Ok(false)
    }

    fn encode(&mut self, request: &AudioRequest) -> Result<AudioFeatures, EngineFailure> {
        let _cleanup = CleanupGuard::new(&self.monitor, CleanupScope::Window);
        let work = work(MemoryStage::Audio, self.plan, false);
        self.monitor.borrow_mut().begin_request(RequestKind::Audio, work);
        let begun = self.monitor.borrow_mut().begin_stage(MemoryStage::Audio);
        begun.map_err(|shortage| self.failure(&shortage))?;
        let run = Run::new(ExecutionOptions::of(work.plan)).with_hooks(&*self.monitor);
        let encoded = self.loaded()?.model.encode_audio(&run, request);
        encoded.map_err(|error| self.failure(&error))
    }

    fn render(
        &mut self,
        request: &WindowRequest,
        on_progress: ProgressFn,
    ) -> Result<(Vec<u8>, EngineTimings), EngineFailure> {
        let _cleanup = CleanupGuard::new(&self.monitor, CleanupScope::Window);
        let work = work(MemoryStage::VaeEncode, request.plan, request.model.is_guided());
        self.monitor.borrow_mut().begin_request(RequestKind::Window, work);
        let rendered = self.run_stages(request, on_progress);
        rendered.map_err(|error| self.failure(&error))
    }

    fn run_stages(
        &self,
        request: &WindowRequest,
        on_progress: ProgressFn,
    ) -> Result<(Vec<u8>, EngineTimings), ModelError> {
        let not_loaded = || ModelError::BadRequest("it came before the weights were loaded".to_owned());
        let model = &self.loaded.as_ref().ok_or_else(not_loaded)?.model;
        let frames = u32::try_from(WINDOW_FRAMES).unwrap_or(u32::MAX);
        let mut stages = WindowStages::new(&self.monitor, frames, on_progress);
        let rows = self.audio.rows(request)?;
        stages.begin(MemoryStage::VaeEncode)?;
        let run = Run::new(ExecutionOptions::of(request.plan)).with_hooks(&*self.monitor);
        model.render_window(&run, request, &rows, &mut |stage| stages.end(stage))
    }

    fn sample(&self) -> MemorySample {
        self.monitor.borrow_mut().sample()
    }

    fn loaded(&self) -> Result<&LoadedModel, EngineFailure> {
        let message = "a request came before the weights were loaded".to_owned();
        self.loaded.as_ref().ok_or(EngineFailure::Other { message })
    }

    /// Turns an error into the failure that is replied, and leaves the device ready for the next request. If
    /// memory ran out, the failure carries what the monitor measured.
    fn failure(&mut self, error: &(dyn Error + 'static)) -> EngineFailure {
        if let Some(ModelError::AudioMissing { window }) = error.downcast_ref() {
            return EngineFailure::AudioMissing { window: *window };
        }
        let text = one_line(error);
        let mut monitor = self.monitor.borrow_mut();
        let class = monitor.classify(&text);
        self.poisoned = self.poisoned || class == ErrorClass::Poisoned;
        let message = format!("{}: {text}", monitor.stage());
        match monitor.out_of_memory_details(class) {
            Some(details) => {
                tracing::warn!(
                    needed_mib = details.needed.div_ceil(MIB),
                    free_before_mib = details.free_before / MIB,
                    "out of memory: {message}"
                );
                EngineFailure::OutOfMemory {
                    stage: details.stage,
                    needed_at_least_mib: Some(details.needed.div_ceil(MIB)),
                    free_before_mib: details.free_before / MIB,
                }
            }
            None if class == ErrorClass::Unfit => EngineFailure::Unfit { message },
            None => EngineFailure::Other { message },
        }
    }
}

/// A stage of a request under a plan.
fn work(stage: MemoryStage, plan: MemoryPlan, guided: bool) -> StageWork {
    StageWork { stage, plan, guided }
}

/// Returns the message of a panic.
fn panic_message(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message")
}
