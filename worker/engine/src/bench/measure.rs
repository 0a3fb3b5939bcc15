//! Runs one part over and over, with a clock and a memory gauge beside it.

use std::collections::HashMap;
use std::time::Instant;

use candle_core::Tensor;

use super::memory::{Gauge, Memory, cpu_seconds};
use super::parts::{Task, task};
use super::{BenchError, EngineReport, PartReport, Settings, WeightsReport};
use crate::numerics_fingerprint;
use latentsync::Checkpoint;

/// Measures one part. Says on the log what it is doing.
pub fn measure(settings: &Settings) -> Result<EngineReport, BenchError> {
    let checkpoint = Checkpoint::open(&settings.weights).map_err(BenchError::Weights)?;
    let made_for = usize::try_from(checkpoint.resolution_px()).unwrap_or_default();
    let side = settings.sizes.resolution.unwrap_or(made_for);
    tracing::info!("{}: preparing", settings.part.name());
    let mut task = task(settings, &checkpoint, side)?;
    let timed = timed(settings, &mut task)?;
    save(settings, task.inputs, timed.output)?;
    Ok(EngineReport {
        weights: WeightsReport {
            identity: checkpoint.identity().to_string(),
            synthetic: checkpoint.synthetic(),
        },
        resolution_px: side,
        plan: settings.sizes.plan.to_string(),
        numerics_fingerprint: numerics_fingerprint(&settings.device_name, settings.dtype),
        part: PartReport {
            part: settings.part,
            seconds: timed.seconds,
            cpu_seconds: Some(timed.cpu_seconds),
            baseline_bytes: timed.memory.baseline_bytes,
            peak_bytes: timed.memory.peak_bytes,
            peak_was_reset: timed.memory.peak_was_reset,
            gflop: task.gflop,
        },
    })
}

struct Timed {
    /// Of every repetition after the warm-up.
    seconds: Vec<f64>,
    cpu_seconds: f64,
    /// Of the warm-up and all repetitions.
    memory: Memory,
    /// The last.
    output: Option<Tensor>,
}

fn timed(settings: &Settings, task: &mut Task) -> Result<Timed, BenchError> {
    let (part, repeat) = (settings.part.name(), settings.sizes.repeat);
    let gauge = Gauge::start();
    tracing::info!("{part}: warming up");
    match &mut task.warm_up {
        Some(warm_up) => warm_up()?,
        None => (task.run)().map(drop)?,
    }
    let computed_before = cpu_seconds();
    let mut seconds = Vec::new();
    let mut output = None;
    for repetition in 1..=repeat {
        drop(output.take());
        let started = Instant::now();
        output = (task.run)()?;
        settings
            .device
            .synchronize()
            .map_err(|source| BenchError::compute(settings.part, source))?;
        let elapsed = started.elapsed().as_secs_f64();
        tracing::info!("{part}: {repetition} of {repeat} took {elapsed:.3} s");
        seconds.push(elapsed);
    }
    Ok(Timed {
        seconds,
        cpu_seconds: (cpu_seconds() - computed_before) / f64::from(repeat),
        memory: gauge.finish(),
        output,
    })
}

fn save(
    settings: &Settings,
    inputs: Vec<(&'static str, Tensor)>,
    output: Option<Tensor>,
) -> Result<(), BenchError> {
    let (Some(dir), Some(output)) = (&settings.save, output) else {
        return Ok(());
    };
    let mut tensors: HashMap<&str, Tensor> = inputs.into_iter().collect();
    tensors.insert("output", output);
    let path = dir.join(format!("{}.safetensors", settings.part.name()));
    candle_core::safetensors::save(&tensors, &path).map_err(|source| BenchError::Save { path, source })
}
