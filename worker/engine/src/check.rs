//! `latentfarm-engine check windows`: the engine's own requests, without a worker, with what each of them held.
//!
//! A worker needs FFmpeg's libraries, this check needs only the engine: it is what runs on a machine that is being
//! tried. It loads a checkpoint under a memory plan, encodes made-up sound, and renders made-up windows one after
//! another. Every answer is one JSON object on a line of its own; a failure is an answer too, and the next window
//! follows.

use std::io::{self, Write};
use std::mem::ManuallyDrop;
use std::path::PathBuf;
use std::time::Instant;

use latentfarm_common::audio::windows::pcm_range;
use latentfarm_common::digest::Digest;
use latentfarm_common::time::{FrameRate, WINDOW_FRAMES};
use latentfarm_common::wire::engine::{
    AudioRequest, EngineReply, EngineRequest, EngineTimings, WindowRequest,
};
use latentfarm_common::wire::job::{AudioWindows, ModelSpec};
use latentfarm_common::wire::memory::{DeviceKind, MemoryPlan, MemorySample};
use serde::Serialize;
use serde_json::{Value, json};

use crate::{Engine, EngineSettings};
use latentsync::cost::prediction::MemoryPredictor;
use latentsync::cost::shape::ModelShape;
use latentsync::{Checkpoint, WeightsError, check_kernels};

const MIB: u64 = 1 << 20;
/// Two seconds of sound at 16 kHz.
const TRACK_SAMPLES: u64 = 32_000;

/// What is rendered.
#[derive(Clone, Debug, clap::Args)]
pub struct WindowsArgs {
    /// Folder with the model weights
    #[arg(long, value_name = "DIR")]
    pub weights: PathBuf,
    /// Side of the face crop in pixels, a multiple of 64 (default: what the weights were made for)
    #[arg(long, value_name = "PX")]
    pub resolution: Option<u32>,
    /// Denoising steps of each window
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub steps: u32,
    /// Scale of classifier-free guidance; 1 is off
    #[arg(long, value_name = "SCALE", default_value_t = 1.0)]
    pub guidance: f32,
    /// Windows to render
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub windows: u32,
    /// Memory plan: batched, sequential, sliced, two-pass-norm, offload or streamed
    #[arg(long, value_name = "PLAN", default_value_t = MemoryPlan::default())]
    pub plan: MemoryPlan,
}

#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    #[error("cannot read the weights")]
    Weights(#[from] WeightsError),
    #[error("cannot predict what the weights need")]
    Predict(#[from] candle_core::Error),
    #[error("cannot print a result")]
    Print(#[from] io::Error),
    #[error("{failed} of {asked} requests failed: the lines above say why")]
    Failed { failed: usize, asked: usize },
}

/// Runs the requests and prints one line for each; the first line is the prediction for the plan.
///
/// # Errors
/// Where the weights cannot be read, or at the end where any request failed.
pub fn windows(
    args: &WindowsArgs,
    settings: EngineSettings,
    output: &mut impl Write,
) -> Result<(), CheckError> {
    let checkpoint = Checkpoint::open(&args.weights)?;
    let kind = if settings.device.device.is_cpu() {
        DeviceKind::Cpu
    } else {
        DeviceKind::Cuda
    };
    let resolution_px = args.resolution.unwrap_or(checkpoint.resolution_px());
    let shape = ModelShape {
        resolution_px: usize::try_from(resolution_px).unwrap_or(0),
        ..ModelShape::of(&checkpoint)
    };
    let guided = args.guidance > 1.0;
    let prediction = MemoryPredictor::with_dtype(shape, kind, settings.dtype)?.predict(args.plan, guided);
    print(
        output,
        "predicted",
        &json!({ "need_mib": prediction.need_mib, "base_mib": prediction.base_mib }),
        0.0,
    )?;
    print(output, "open", &memory(&settings.device.memory.reading()), 0.0)?;

    if !settings.device.device.is_cpu() {
        let started = Instant::now();
        let checks = check_kernels(&settings.device.device)?;
        print(output, "kernels", &json!(checks), started.elapsed().as_secs_f64())?;
    }
    let mut engine = ManuallyDrop::new(Engine::new(settings));
    let mut failed = 0;
    let requests = requests(args, &checkpoint, resolution_px);
    let asked = requests.len();
    for (name, request) in requests {
        let started = Instant::now();
        let mut highest = (0, 0);
        let mut reply = engine.answer(request, &mut |_, sample| {
            highest = (
                highest.0.max(sample.live_peak),
                highest.1.max(sample.reserved_peak),
            );
            Ok(())
        });
        if let EngineReply::Window { memory, .. } = &mut reply {
            memory.live_peak = memory.live_peak.max(highest.0);
            memory.reserved_peak = memory.reserved_peak.max(highest.1);
        }
        failed += usize::from(matches!(reply, EngineReply::Failed(_)));
        print(output, name, &told(&reply), started.elapsed().as_secs_f64())?;
        if engine.is_poisoned() {
            failed += 1;
            break;
        }
    }
    // Freeing tensors on a device that is past use would fail.
    if !engine.is_poisoned() {
        drop(ManuallyDrop::into_inner(engine));
    }
    match failed {
        0 => Ok(()),
        failed => Err(CheckError::Failed { failed, asked }),
    }
}

fn requests(
    args: &WindowsArgs,
    checkpoint: &Checkpoint,
    resolution_px: u32,
) -> Vec<(&'static str, EngineRequest)> {
    let load = EngineRequest::Load {
        weights_dir: args.weights.display().to_string(),
        expected: checkpoint.identity(),
        plan: args.plan,
    };
    let side = usize::try_from(resolution_px).unwrap_or(0);
    let frames = usize::try_from(WINDOW_FRAMES).unwrap_or(0);
    let window = EngineRequest::Window(WindowRequest {
        model: ModelSpec {
            weights: checkpoint.identity(),
            synthetic: checkpoint.synthetic(),
            resolution_px,
            steps: args.steps,
            guidance_scale: args.guidance,
            seed: 1,
        },
        track: track(),
        track_samples: TRACK_SAMPLES,
        layout: AudioWindows::Overlapping,
        first_frame: 0,
        rate: FrameRate::FILM_25,
        faces: stripes(frames, side),
        silence: None,
        plan: args.plan,
    });
    let mut requests = vec![("load", load), ("audio", EngineRequest::Audio(sound()))];
    requests.extend((0..args.windows).map(|_| ("window", window.clone())));
    requests
}

fn sound() -> AudioRequest {
    let range = pcm_range(0, TRACK_SAMPLES, AudioWindows::Overlapping);
    let tone = (range.start..range.end).map(|at| i16::try_from(at * 997 % 20_011).unwrap_or(0) - 10_000);
    AudioRequest {
        track: track(),
        track_samples: TRACK_SAMPLES,
        layout: AudioWindows::Overlapping,
        log_mel_max: 1.0,
        window: 0,
        pcm: tone.collect(),
    }
}

fn track() -> Digest {
    Digest::of(b"check")
}

/// Planar faces of slanting stripes, `frames x 3 x side x side` bytes.
pub(crate) fn stripes(frames: usize, side: usize) -> Vec<u8> {
    (0..frames * 3 * side * side)
        .map(|i| (i % side * 3 + i / side % side * 2 + i / (side * side)) % 251)
        .map(|level| u8::try_from(level).unwrap_or_default())
        .collect()
}

fn told(reply: &EngineReply) -> Value {
    match reply {
        EngineReply::Loaded {
            numeric_kind,
            memory: sample,
            ..
        } => {
            json!({ "numeric_kind": numeric_kind, "memory": memory(sample) })
        }
        EngineReply::AudioReady { memory: sample, .. } | EngineReply::Progress { memory: sample, .. } => {
            json!({ "memory": memory(sample) })
        }
        EngineReply::Window {
            faces,
            timings,
            memory: sample,
        } => {
            let EngineTimings {
                vae_encode_ms,
                denoise_ms,
                vae_decode_ms,
            } = timings;
            json!({
                "vae_encode_ms": vae_encode_ms,
                "denoise_ms": denoise_ms,
                "vae_decode_ms": vae_decode_ms,
                "faces": Digest::of(faces).to_string(),
                "memory": memory(sample),
            })
        }
        EngineReply::Failed(failure) => json!({ "failed": failure }),
    }
}

/// A reading in MiB with one decimal place.
fn memory(sample: &MemorySample) -> Value {
    #[derive(Serialize)]
    struct Mib {
        free: f64,
        total: f64,
        own: f64,
        reserved: f64,
        reserved_peak: f64,
        live: f64,
        live_peak: f64,
        host_rss: f64,
    }
    let mib = |bytes: u64| (bytes as f64 / MIB as f64 * 10.0).round() / 10.0;
    json!(Mib {
        free: mib(sample.free),
        total: mib(sample.total),
        own: mib(sample.own),
        reserved: mib(sample.reserved),
        reserved_peak: mib(sample.reserved_peak),
        live: mib(sample.live),
        live_peak: mib(sample.live_peak),
        host_rss: mib(sample.host_rss),
    })
}

fn print(output: &mut impl Write, request: &str, result: &Value, seconds: f64) -> Result<(), CheckError> {
    let seconds = (seconds * 1000.0).round() / 1000.0;
    let line = json!({ "request": request, "seconds": seconds, "result": result });
    writeln!(output, "{line}")?;
    output.flush()?;
    Ok(())
}
