//! What the engine does with each kind of request. Whatever way a request ends, its memory is given back.

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
use super::classify::{Fault, classify};
use super::settings::EngineSettings;
use super::steps::{Steps, Tell};
use super::watch::{Shared, Watch};
use crate::memory::device::Work;
use crate::memory::fault::Request;
use crate::memory::guard::{Guard, Level};
use crate::numerics_fingerprint;
use latentsync::cost::plan::tolerant_steps;
use latentsync::{AudioFeatures, Checkpoint, ExecutionOptions, LatentSync, ModelError, Run};

const MIB: u64 = 1 << 20;

/// A loaded model and what it keeps between requests. To be used on the thread that made its device.
pub struct Engine {
    // Tensors go before the device that they lie on.
    loaded: Option<Loaded>,
    audio: AudioCache,
    watch: Shared,
    settings: Settings,
    /// Plan of the task.
    plan: MemoryPlan,
    poisoned: bool,
}

/// What of the settings is asked for again and again.
struct Settings {
    device: candle_core::Device,
    name: String,
    computes_as: String,
    dtype: candle_core::DType,
}

struct Loaded {
    identity: Digest,
    synthetic: bool,
    model: LatentSync,
}

impl Engine {
    pub fn new(settings: EngineSettings) -> Self {
        let EngineSettings {
            device,
            dtype,
            cleanup,
            faults,
        } = settings;
        Self {
            loaded: None,
            audio: AudioCache::default(),
            watch: Rc::new(RefCell::new(Watch::new(device.memory, cleanup, faults))),
            settings: Settings {
                device: device.device,
                name: device.name,
                computes_as: device.computes_as,
                dtype,
            },
            plan: MemoryPlan::default(),
            poisoned: false,
        }
    }

    /// Whether the device is past use: the process must end, with its tensors never dropped.
    pub fn is_poisoned(&self) -> bool {
        self.poisoned
    }

    /// Answers one request. A panic is an answer too, where the device survives one.
    pub fn answer(&mut self, request: EngineRequest, tell: Tell) -> EngineReply {
        // What a panic may leave half done is the cache of audio, whose entries are whole, and the watch, which
        // begins anew with every request.
        let outcome = catch_unwind(AssertUnwindSafe(|| self.perform(request, tell)));
        let outcome = outcome.unwrap_or_else(|panic| {
            self.poisoned = !self.watch.borrow().survives_panic();
            if self.loaded.is_none() {
                self.watch.borrow_mut().unloaded();
            }
            Err(EngineFailure::Other {
                message: format!("the engine panicked: {}", words(panic.as_ref())),
            })
        });
        outcome.unwrap_or_else(EngineReply::Failed)
    }

    fn perform(&mut self, request: EngineRequest, tell: Tell) -> Result<EngineReply, EngineFailure> {
        match request {
            EngineRequest::Load {
                weights_dir,
                expected,
                plan,
            } => {
                self.load(Path::new(&weights_dir), expected, plan)?;
                Ok(EngineReply::Loaded {
                    synthetic: self.loaded()?.synthetic,
                    numerics_fingerprint: self.numerics_fingerprint(plan),
                    device: self.settings.name.clone(),
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
                let (faces, timings) = self.render(&request, tell)?;
                Ok(EngineReply::Window {
                    faces,
                    timings,
                    memory: self.sample(),
                })
            }
        }
    }

    /// Names what results depend on under `plan`: they are equal bit for bit only if this is.
    fn numerics_fingerprint(&self, plan: MemoryPlan) -> String {
        let kind = if self.settings.device.is_cpu() {
            DeviceKind::Cpu
        } else {
            DeviceKind::Cuda
        };
        let base = numerics_fingerprint(&self.settings.computes_as, self.settings.dtype);
        match tolerant_steps(kind, plan) {
            Some(steps) => format!("{base}+{steps}"),
            None => base,
        }
    }

    /// Every task begins with this request, so that the one before is over.
    fn load(&mut self, dir: &Path, expected: Digest, plan: MemoryPlan) -> Result<(), EngineFailure> {
        drop(Guard::new(&self.watch, Level::Task));
        self.plan = plan;
        let known = self
            .loaded
            .as_ref()
            .is_some_and(|loaded| loaded.identity == expected);
        if known {
            return Ok(());
        }
        // The old model goes first: two do not fit where one does.
        self.loaded = None;
        self.audio.clear();
        self.watch.borrow_mut().unloaded();
        let _cleanup = Guard::new(&self.watch, Level::Window);
        self.watch
            .borrow_mut()
            .request(Request::Load, work(MemoryStage::Load, plan, false));
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
            self.watch.borrow_mut().unloaded();
        })?;
        self.watch.borrow_mut().loaded(&checkpoint);
        self.loaded = Some(Loaded {
            identity,
            synthetic: checkpoint.synthetic(),
            model,
        });
        tracing::info!(
            weights = %dir.display(),
            dtype = self.settings.dtype.as_str(),
            seconds = started.elapsed().as_secs_f32(),
            "model loaded"
        );
        Ok(())
    }

    fn load_model(&mut self, checkpoint: &Checkpoint) -> Result<LatentSync, EngineFailure> {
        let fits = self.watch.borrow_mut().load(checkpoint);
        fits.map_err(|shortage| self.failure(&shortage))?;
        let Settings { device, dtype, .. } = &self.settings;
        let loaded = LatentSync::load(checkpoint, device, *dtype, ExecutionOptions::of(self.plan));
        let model = loaded.map_err(|error| match self.failure(&error) {
            EngineFailure::Other { message } => EngineFailure::Unfit { message },
            other => other,
        })?;
        let fault = self.watch.borrow_mut().fault();
        // What fails here has the whole model to give back.
        match fault {
            Ok(()) => Ok(model),
            Err(error) => Err(self.failure(&error)),
        }
    }

    /// Whether the window was encoded already.
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
        let _cleanup = Guard::new(&self.watch, Level::Window);
        let work = work(MemoryStage::Audio, self.plan, false);
        self.watch.borrow_mut().request(Request::Audio, work);
        let begun = self.watch.borrow_mut().begin(MemoryStage::Audio);
        begun.map_err(|shortage| self.failure(&shortage))?;
        let run = Run::new(ExecutionOptions::of(work.plan)).with_hooks(&*self.watch);
        let encoded = self.loaded()?.model.encode_audio(&run, request);
        encoded.map_err(|error| self.failure(&error))
    }

    fn render(
        &mut self,
        request: &WindowRequest,
        tell: Tell,
    ) -> Result<(Vec<u8>, EngineTimings), EngineFailure> {
        let _cleanup = Guard::new(&self.watch, Level::Window);
        let work = work(MemoryStage::VaeEncode, request.plan, request.model.is_guided());
        self.watch.borrow_mut().request(Request::Window, work);
        let rendered = self.rendered(request, tell);
        rendered.map_err(|error| self.failure(&error))
    }

    fn rendered(&self, request: &WindowRequest, tell: Tell) -> Result<(Vec<u8>, EngineTimings), ModelError> {
        let not_loaded = || ModelError::BadRequest("it came before the weights were loaded".to_owned());
        let model = &self.loaded.as_ref().ok_or_else(not_loaded)?.model;
        let frames = u32::try_from(WINDOW_FRAMES).unwrap_or(u32::MAX);
        let mut steps = Steps::new(&self.watch, frames, tell);
        let rows = self.audio.rows(request)?;
        steps.begin(MemoryStage::VaeEncode)?;
        let run = Run::new(ExecutionOptions::of(request.plan)).with_hooks(&*self.watch);
        model.render_window(&run, request, &rows, &mut |stage| steps.over(stage))
    }

    fn sample(&self) -> MemorySample {
        self.watch.borrow_mut().sample()
    }

    fn loaded(&self) -> Result<&Loaded, EngineFailure> {
        let message = "a request came before the weights were loaded".to_owned();
        self.loaded.as_ref().ok_or(EngineFailure::Other { message })
    }

    /// The class of an error, after whatever it needs to leave the device fit for the next request.
    fn failure(&mut self, error: &(dyn Error + 'static)) -> EngineFailure {
        if let Some(ModelError::AudioMissing { window }) = error.downcast_ref() {
            return EngineFailure::AudioMissing { window: *window };
        }
        let text = one_line(error);
        let fault = classify(&text);
        self.poisoned = self.poisoned || fault == Fault::Poisoned;
        let mut watch = self.watch.borrow_mut();
        let message = format!("{}: {text}", watch.stage());
        match watch.ran_out(fault) {
            Some(ending) => {
                tracing::warn!(
                    needed_mib = ending.needed.div_ceil(MIB),
                    free_before_mib = ending.free_before / MIB,
                    "out of memory: {message}"
                );
                EngineFailure::OutOfMemory {
                    stage: ending.stage,
                    needed_at_least_mib: Some(ending.needed.div_ceil(MIB)),
                    free_before_mib: ending.free_before / MIB,
                }
            }
            None => EngineFailure::Other { message },
        }
    }
}

fn work(stage: MemoryStage, plan: MemoryPlan, guided: bool) -> Work {
    Work { stage, plan, guided }
}

/// What a panic said.
fn words(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("without a word")
}
