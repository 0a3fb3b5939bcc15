//! Renders windows through the whole engine, as a worker would ask for them.

use std::io::Write;
use std::mem::ManuallyDrop;
use std::path::PathBuf;
use std::time::Instant;

use latentfarm_common::digest::Digest;
use latentfarm_common::wire::engine::{EngineReply, EngineRequest, EngineTimings};
use latentfarm_common::wire::job::ModelSpec;
use latentfarm_common::wire::memory::{DeviceKind, MemoryPlan};
use serde_json::{Value, json};

use super::print::{all_passed, memory, print};
use crate::{Engine, EngineSettings, made_up};
use latentsync::Checkpoint;
use latentsync::cost::prediction::MemoryPredictor;
use latentsync::cost::shape::ModelShape;

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

/// Runs the requests and prints one line for each; the first line is the prediction for the plan.
///
/// # Errors
/// Where the weights cannot be read, or at the end where any request failed.
pub(super) fn windows(
    args: &WindowsArgs,
    settings: EngineSettings,
    output: &mut impl Write,
) -> anyhow::Result<()> {
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

    // Not dropped if the device is past use: freeing its tensors would fail.
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
            return all_passed(failed, asked);
        }
    }
    drop(ManuallyDrop::into_inner(engine));
    all_passed(failed, asked)
}

fn requests(
    args: &WindowsArgs,
    checkpoint: &Checkpoint,
    resolution_px: u32,
) -> Vec<(&'static str, EngineRequest)> {
    let track = Digest::of(b"check");
    let model = ModelSpec {
        resolution_px,
        ..made_up::model(checkpoint, args.steps, args.guidance)
    };
    let window = made_up::window(model, track, args.plan);
    let mut requests = vec![
        ("load", made_up::load(&args.weights, checkpoint, args.plan)),
        ("audio", made_up::audio(track)),
    ];
    requests.extend((0..args.windows).map(|_| ("window", window.clone())));
    requests
}

fn told(reply: &EngineReply) -> Value {
    match reply {
        EngineReply::Loaded {
            numerics_fingerprint,
            memory: sample,
            ..
        } => {
            json!({ "numerics_fingerprint": numerics_fingerprint, "memory": memory(sample) })
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
