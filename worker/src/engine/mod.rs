//! The engine process: loads a checkpoint once, keeps encoded audio, and renders one window at a time.
//!
//! It reads [`EngineRequest`]s from standard input and answers on standard output; its log goes to standard
//! error. It ends when its input ends. Everything that it computes is a function of the request alone, so that
//! a window comes out the same whatever was rendered before it.

mod audio_cache;
mod classify;
mod silence;

use std::io::{Read, Write};
use std::path::Path;
use std::time::Instant;

use candle_core::{DType, Device};
use latentfarm_common::digest::Digest;
use latentfarm_common::error::one_line;
use latentfarm_common::wire::engine::{
    AudioRequest, EngineFailure, EngineReply, EngineRequest, EngineStage, WindowRequest,
};
use latentfarm_common::wire::pipe::{self, PipeError};

use crate::latentsync::{Checkpoint, LatentSync, ModelError, Stopped};
use crate::memory::host;
use crate::numeric_kind;
use audio_cache::AudioCache;

pub use classify::is_out_of_memory;

/// Environment of an engine that computes with `threads` threads.
///
/// Its allocator keeps freed memory for a second before the kernel gets it back: one step frees and asks for the same
/// large tensors again and again, and faulting them anew costs about a seventh of its time.
pub fn environment(threads: usize) -> [(&'static str, String); 3] {
    [
        ("RAYON_NUM_THREADS", threads.to_string()),
        ("CANDLE_NUM_THREADS", threads.to_string()),
        ("MIMALLOC_PURGE_DELAY", "1000".to_owned()),
    ]
}

/// What the networks compute in. Latents and the sampler are `f32` whatever it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Precision {
    /// 32 bits: the reference, and the CPU's default.
    F32,
    /// 16 bits with a narrow range: the default on CUDA. On the CPU slower than f32, for comparing.
    F16,
    /// 16 bits with f32's range and eight bits of precision.
    Bf16,
}

impl Precision {
    /// The type that a device is used with unless told otherwise.
    pub fn usual_for(device: &Device) -> Self {
        if device.is_cpu() { Self::F32 } else { Self::F16 }
    }

    pub fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::F16 => DType::F16,
            Self::Bf16 => DType::BF16,
        }
    }
}

impl std::fmt::Display for Precision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.dtype().as_str())
    }
}

/// Where and with what the engine computes.
#[derive(Clone, Debug)]
pub struct EngineSettings {
    pub device: Device,
    /// Text form of the device, as in telemetry: `cpu` or `cuda:0`.
    pub device_name: String,
    pub dtype: DType,
}

struct Loaded {
    identity: Digest,
    synthetic: bool,
    model: LatentSync,
}

struct Engine {
    settings: EngineSettings,
    loaded: Option<Loaded>,
    audio: AudioCache,
}

/// Serves requests until the input ends.
pub fn serve(
    settings: EngineSettings,
    mut input: impl Read,
    mut output: impl Write,
) -> Result<(), PipeError> {
    let mut engine = Engine {
        settings,
        loaded: None,
        audio: AudioCache::default(),
    };
    while let Some(request) = pipe::read::<EngineRequest>(&mut input)? {
        let reply = engine.answer(request, &mut output)?;
        pipe::write(&mut output, &reply)?;
    }
    Ok(())
}

impl Engine {
    fn answer(&mut self, request: EngineRequest, output: &mut impl Write) -> Result<EngineReply, PipeError> {
        let outcome = match request {
            EngineRequest::Load {
                weights_dir,
                expected,
            } => self.load(Path::new(&weights_dir), expected),
            EngineRequest::Audio(request) => self.encode_audio(&request),
            EngineRequest::Window(request) => {
                let mut broken = None;
                let outcome = self.render(&request, &mut |stage| {
                    let progress = EngineReply::Progress {
                        stage,
                        memory_mib: host::own_rss_mib(),
                    };
                    pipe::write(&mut *output, &progress).map_err(|error| {
                        broken = Some(error);
                        Stopped
                    })
                });
                match broken {
                    // Nobody is listening any more.
                    Some(error) => return Err(error),
                    None => outcome,
                }
            }
        };
        Ok(outcome.unwrap_or_else(EngineReply::Failed))
    }

    fn load(&mut self, dir: &Path, expected: Digest) -> Result<EngineReply, EngineFailure> {
        if self
            .loaded
            .as_ref()
            .is_none_or(|loaded| loaded.identity != expected)
        {
            // The old model goes first: two do not fit where one does.
            self.loaded = None;
            self.audio.clear();
            let unfit = |message: String| EngineFailure::Unfit { message };
            let started = Instant::now();
            let checkpoint = Checkpoint::open(dir).map_err(|error| unfit(one_line(&error)))?;
            let identity = checkpoint.identity();
            if identity != expected {
                return Err(unfit(format!(
                    "the weights in `{}` are {identity}, the job was planned with {expected}",
                    dir.display()
                )));
            }
            let model = LatentSync::load(&checkpoint, &self.settings.device, self.settings.dtype)
                .map_err(|error| unfit(one_line(&error)))?;
            tracing::info!(
                weights = %dir.display(),
                dtype = self.settings.dtype.as_str(),
                seconds = started.elapsed().as_secs_f32(),
                rss_mib = host::own_rss_mib(),
                "model loaded"
            );
            self.loaded = Some(Loaded {
                identity,
                synthetic: checkpoint.synthetic(),
                model,
            });
        }
        let synthetic = self.loaded.as_ref().is_some_and(|loaded| loaded.synthetic);
        Ok(EngineReply::Loaded {
            synthetic,
            numeric_kind: numeric_kind(&self.settings.device_name, self.settings.dtype),
            device: self.settings.device_name.clone(),
        })
    }

    fn encode_audio(&mut self, request: &AudioRequest) -> Result<EngineReply, EngineFailure> {
        let started = Instant::now();
        if self.audio.touch(request.track, request.layout, request.window) {
            return Ok(EngineReply::AudioReady {
                cached: true,
                elapsed_ms: 0,
            });
        }
        if request.pcm.is_empty() {
            return Err(EngineFailure::AudioMissing {
                window: request.window,
            });
        }
        let model = &self.loaded()?.model;
        let features = model
            .encode_audio(request)
            .map_err(|error| failure("audio", &error))?;
        self.audio.insert(request, features);
        let elapsed_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        Ok(EngineReply::AudioReady {
            cached: false,
            elapsed_ms,
        })
    }

    fn render(
        &self,
        request: &WindowRequest,
        on_stage: &mut dyn FnMut(EngineStage) -> Result<(), Stopped>,
    ) -> Result<EngineReply, EngineFailure> {
        let rows = self
            .audio
            .rows(request)
            .map_err(|error| failure("speech", &error))?;
        let mut last_stage = String::from("start");
        let outcome = self.loaded()?.model.render_window(request, &rows, &mut |stage| {
            last_stage = format!("{stage:?}");
            on_stage(stage)
        });
        let (faces, timings) = outcome.map_err(|error| failure(&last_stage, &error))?;
        Ok(EngineReply::Window { faces, timings })
    }

    fn loaded(&self) -> Result<&Loaded, EngineFailure> {
        let message = "a request came before the weights were loaded".to_owned();
        self.loaded.as_ref().ok_or(EngineFailure::Other { message })
    }
}

fn failure(stage: &str, error: &ModelError) -> EngineFailure {
    if let ModelError::AudioMissing { window } = error {
        return EngineFailure::AudioMissing { window: *window };
    }
    let message = format!("{stage}: {}", one_line(error));
    if classify::is_out_of_memory(&message) {
        let free_before_mib = host::available_mib();
        EngineFailure::OutOfMemory {
            stage: stage.to_owned(),
            needed_at_least_mib: None,
            free_before_mib,
        }
    } else {
        EngineFailure::Other { message }
    }
}
