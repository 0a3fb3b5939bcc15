//! Renders windows with a whole engine, by the requests that a worker would send.

use std::io::Write;
use std::mem::ManuallyDrop;
use std::path::PathBuf;
use std::time::Instant;

use latentfarm_common::digest::Digest;
use latentfarm_common::wire::engine::{EngineReply, EngineRequest};
use latentfarm_common::wire::job::ModelSpec;
use latentfarm_common::wire::memory::{DeviceKind, MemoryPlan, MemorySample};
use serde_json::{Value, json};

use super::print::{all_passed, memory, print};
use super::verdicts::{MeasuredNeed, SteadyWindows};
use crate::{Engine, EngineSettings, dummy_requests};
use latentsync::Checkpoint;
use latentsync::cost::prediction::MemoryPredictor;
use latentsync::cost::shape::ModelShape;

/// Which windows the check renders, and under which memory plan.
#[derive(Clone, Debug, clap::Args)]
pub struct WindowsArgs {
    /// Folder with the model weights
    #[arg(long, value_name = "DIR")]
    pub weights: PathBuf,
    /// Side of the face crop in pixels, a multiple of 64 (default: what the weights were trained for)
    #[arg(long, value_name = "PX")]
    pub resolution: Option<u32>,
    /// Denoising steps of each window
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub steps: u32,
    /// Scale of classifier-free guidance; 1 is off
    #[arg(long, value_name = "SCALE", default_value_t = 1.0)]
    pub guidance: f32,
    /// Number of windows to render
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub windows: u32,
    /// Memory plan: batched, sequential, sliced, two-pass-norm, offload or streamed
    #[arg(long, value_name = "PLAN", default_value_t = MemoryPlan::default())]
    pub plan: MemoryPlan,
}

/// Runs the requests and prints one line for each. The first line is the memory that is predicted for the
/// plan; the last ones compare it with the memory that was measured, and the windows with each other.
///
/// # Errors
/// Fails if the weights cannot be read, or, after all requests, if any of them or of the comparisons failed.
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

    // The engine is not dropped if the device can no longer be used: freeing its tensors would fail.
    let mut engine = ManuallyDrop::new(Engine::new(settings));
    let mut failed = 0;
    let requests = requests(args, &checkpoint, resolution_px);
    let mut total = requests.len();
    let mut replies = Vec::new();
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
        print(
            output,
            name,
            &reply_json(&reply, kind),
            started.elapsed().as_secs_f64(),
        )?;
        if engine.is_poisoned() {
            return all_passed(failed, total);
        }
        replies.push(reply);
    }
    if failed == 0 {
        let need = MeasuredNeed::of(&replies, prediction.need_mib);
        print(output, "need", &need.json(), 0.0)?;
        failed += usize::from(!need.passed());
        total += 1;
    }
    if failed == 0
        && let Some(steady) = SteadyWindows::of(&replies)
    {
        print(output, "steady", &steady.json(), 0.0)?;
        failed += usize::from(!steady.passed());
        total += 1;
    }
    drop(ManuallyDrop::into_inner(engine));
    all_passed(failed, total)
}

/// Returns the requests, each with its name in the output.
fn requests(
    args: &WindowsArgs,
    checkpoint: &Checkpoint,
    resolution_px: u32,
) -> Vec<(&'static str, EngineRequest)> {
    let track = Digest::of(b"check");
    let model = ModelSpec {
        resolution_px,
        ..dummy_requests::model(checkpoint, args.steps, args.guidance)
    };
    let window = dummy_requests::window(model, track, args.plan);
    let mut requests = vec![
        ("load", dummy_requests::load(&args.weights, checkpoint, args.plan)),
        ("audio", dummy_requests::audio(track)),
    ];
    requests.extend((0..args.windows).map(|_| ("window", window.clone())));
    requests
}

/// Returns what is printed of a reply, with what the pool lost to fragmentation at its peak if the device is a GPU.
fn reply_json(reply: &EngineReply, kind: DeviceKind) -> Value {
    let memory = |sample: &MemorySample| {
        let mut figures = memory(sample);
        if kind == DeviceKind::Cuda {
            let mib = sample.fragmented_peak() as f64 / 1_048_576.0;
            figures["fragmented_peak"] = json!((mib * 10.0).round() / 10.0);
        }
        figures
    };
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
            let mut result = json!(timings);
            result["faces"] = json!(Digest::of(faces).to_string());
            result["memory"] = memory(sample);
            result
        }
        EngineReply::Failed(failure) => json!({ "failed": failure }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fragmentation_is_printed_for_a_gpu_alone() {
        let memory = MemorySample {
            live_peak: 3330 << 20,
            reserved_peak: 3872 << 20,
            ..MemorySample::default()
        };
        let reply = EngineReply::AudioReady {
            cached: false,
            elapsed_ms: 1,
            memory,
        };
        let figure = |kind| reply_json(&reply, kind)["memory"]["fragmented_peak"].clone();
        assert_eq!(figure(DeviceKind::Cuda), json!(542.0));
        assert_eq!(figure(DeviceKind::Cpu), Value::Null);
    }
}
