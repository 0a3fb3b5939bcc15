//! Measures one part: runs it repeatedly and takes its time and memory.

use std::collections::HashMap;
use std::time::Instant;

use candle_core::Tensor;

use super::device_memory::DeviceGauge;
use super::parts::{Workload, workload};
use super::usage::{MemoryGauge, cpu_seconds};
use super::{BenchError, BenchSettings, EngineReport, PartReport, WeightsReport};
use crate::memory::device::EngineMemory;
use crate::numerics_fingerprint;
use latentsync::Checkpoint;

/// Measures one part of the model, and logs what it is doing. `memory` is that of a GPU, which is measured too.
///
/// # Errors
/// Fails if the weights cannot be loaded, the part cannot run, or its tensors cannot be saved.
pub fn measure(
    settings: &BenchSettings,
    memory: Option<&mut dyn EngineMemory>,
) -> Result<EngineReport, BenchError> {
    let checkpoint = Checkpoint::open(&settings.weights).map_err(BenchError::Weights)?;
    let made_for = usize::try_from(checkpoint.resolution_px()).unwrap_or_default();
    let side = settings.sizes.resolution.unwrap_or(made_for);
    tracing::info!(part = settings.part.name(), "preparing");
    let mut workload = workload(settings, &checkpoint, side)?;
    let (part, output) = run(settings, &mut workload, memory)?;
    save(settings, workload.inputs, output)?;
    Ok(EngineReport {
        weights: WeightsReport {
            identity: checkpoint.identity().to_string(),
            kind: checkpoint.kind(),
        },
        resolution_px: side,
        plan: settings.sizes.plan.to_string(),
        numerics_fingerprint: numerics_fingerprint(&settings.device_name, settings.dtype),
        part,
    })
}

/// Runs the warm-up and all repetitions. Returns the measurements, and the output of the last repetition.
fn run(
    settings: &BenchSettings,
    workload: &mut Workload,
    memory: Option<&mut dyn EngineMemory>,
) -> Result<(PartReport, Option<Tensor>), BenchError> {
    let (part, repeat) = (settings.part.name(), settings.sizes.repeat);
    let gauge = MemoryGauge::start();
    let on_device = memory.map(DeviceGauge::start);
    tracing::info!(part, "warming up");
    match &mut workload.warm_up {
        Some(warm_up) => warm_up()?,
        None => (workload.run)().map(drop)?,
    }
    let computed_before = cpu_seconds();
    let mut seconds = Vec::new();
    let mut output = None;
    for repetition in 1..=repeat {
        drop(output.take());
        let started = Instant::now();
        output = (workload.run)()?;
        settings
            .device
            .synchronize()
            .map_err(|source| BenchError::compute(settings.part, source))?;
        let elapsed = started.elapsed().as_secs_f64();
        tracing::info!(
            part,
            repetition,
            of = repeat,
            seconds = elapsed,
            "repetition finished"
        );
        seconds.push(elapsed);
    }
    let cpu_seconds = (cpu_seconds() - computed_before) / f64::from(repeat);
    let memory = gauge.finish();
    let again = || {
        drop(output.take());
        output = (workload.run)()?;
        let done = settings.device.synchronize();
        done.map_err(|source| BenchError::compute(settings.part, source))
    };
    let device_memory = on_device.map(|gauge| gauge.finish(again)).transpose()?;
    let report = PartReport {
        part: settings.part,
        seconds,
        cpu_seconds: Some(cpu_seconds),
        baseline_bytes: memory.baseline_bytes,
        peak_bytes: memory.peak_bytes,
        peak_was_reset: memory.peak_was_reset,
        device_memory,
        gflop: workload.gflop,
    };
    Ok((report, output))
}

/// Saves the inputs and the output, if the settings name a folder and the part has an output.
fn save(
    settings: &BenchSettings,
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
