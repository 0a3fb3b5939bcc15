//! `weights describe` prints what a checkpoint is and how much memory it needs under each memory plan, on both kinds of
//! device or on one device of this machine.

use std::path::Path;

use candle_core::DType;
use latentfarm_common::wire::job::WeightsKind;
use latentfarm_common::wire::memory::{DeviceKind, MemoryPlan};
use serde::Serialize;

use crate::cli::engines::Engines;
use crate::machine::device_check::CHECK_LIMIT;
use crate::machine::probe::{DeviceSelector, Probe};
use latentsync::cost::prediction::{MemoryPrediction, MemoryPredictor, is_validated};
use latentsync::cost::shape::ModelShape;
use latentsync::{Checkpoint, WeightsError};

/// What `describe` prints; `--json` prints it as it is.
#[derive(Serialize)]
struct Description {
    identity: String,
    kind: WeightsKind,
    /// The number of denoising steps that the weights were trained for, if their folder states it.
    #[serde(skip_serializing_if = "Option::is_none")]
    steps: Option<u32>,
    resolution_px: u32,
    unet_parameters: u64,
    vae_parameters: u64,
    /// The paths of the files of the checkpoint in its folder.
    files: Vec<String>,
    /// The device that the needs are printed for; `None` for both kinds.
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<DescribedDevice>,
    needs: Vec<TaskMemory>,
}

/// The device of this machine whose needs are printed.
#[derive(Serialize)]
pub(super) struct DescribedDevice {
    name: String,
    kind: DeviceKind,
    free_mib: u64,
    total_mib: u64,
}

impl DescribedDevice {
    /// Finds the device and reads its memory.
    ///
    /// # Errors
    /// Fails if this machine has no such device that can be used, or its memory cannot be read.
    pub(super) fn read(selector: &DeviceSelector) -> anyhow::Result<Self> {
        let probe = Probe::for_devices(std::slice::from_ref(selector));
        let (device, cpu_because) = Engines::new(None, None, CHECK_LIMIT)?.choose(selector, &probe)?;
        if let Some(reason) = cpu_because {
            tracing::info!("{reason}; described for a worker on the CPU");
        }
        let reading = probe.read(&device).map_err(anyhow::Error::msg)?;
        Ok(Self {
            name: device.to_string(),
            kind: device.kind(),
            free_mib: reading.free_mib,
            total_mib: reading.total_mib,
        })
    }
}

/// The memory that one task needs on one kind of device.
#[derive(Serialize)]
struct TaskMemory {
    kind: DeviceKind,
    dtype: &'static str,
    guided: bool,
    /// The need under each plan, from the fastest plan to the leanest.
    mib: [u64; MemoryPlan::COUNT],
    /// Whether predictions for this kind of device were compared with measurements.
    confirmed: bool,
    /// The prediction for each plan, which names the layer at the peak.
    #[serde(skip)]
    predicted: Vec<MemoryPrediction>,
}

/// Returns the description as text, or as one JSON object; with the needs on `device`, or on both kinds of device.
pub(super) fn describe(
    dir: &Path,
    device: Option<DescribedDevice>,
    json: bool,
) -> Result<String, WeightsError> {
    let checkpoint = Checkpoint::open(dir)?;
    let parameters = checkpoint.check_tensors()?;
    let description = Description {
        identity: checkpoint.identity().to_string(),
        kind: checkpoint.kind(),
        steps: checkpoint.steps(),
        resolution_px: checkpoint.resolution_px(),
        unet_parameters: parameters.unet,
        vae_parameters: parameters.vae,
        files: checkpoint.file_names(dir),
        needs: needs(&checkpoint, device.as_ref().map(|device| device.kind)).map_err(|source| {
            WeightsError::Read {
                path: dir.to_owned(),
                source,
            }
        })?,
        device,
    };
    if json {
        return Ok(serde_json::json!(description).to_string());
    }
    Ok(text(&description, &checkpoint))
}

fn needs(checkpoint: &Checkpoint, only: Option<DeviceKind>) -> candle_core::Result<Vec<TaskMemory>> {
    let accounted = ModelShape::accounted(checkpoint).map_err(candle_core::Error::wrap)?;
    let devices = [
        (DeviceKind::Cpu, DType::F32, ModelShape::of(checkpoint)),
        (DeviceKind::Cuda, DType::F16, accounted),
    ];
    let mut needs = Vec::new();
    let devices = devices
        .into_iter()
        .filter(|(kind, ..)| only.is_none_or(|only| only == *kind));
    for (kind, dtype, shape) in devices {
        let mut predictor = MemoryPredictor::with_dtype(shape, kind, dtype)?;
        for guided in [false, true] {
            needs.push(TaskMemory {
                kind,
                dtype: dtype.as_str(),
                guided,
                mib: predictor.needs(guided).mib,
                confirmed: is_validated(kind),
                predicted: MemoryPlan::ALL
                    .map(|plan| predictor.predict(plan, guided))
                    .to_vec(),
            });
        }
    }
    Ok(needs)
}

fn text(description: &Description, checkpoint: &Checkpoint) -> String {
    let kind = description.kind.mark().unwrap_or("real weights");
    let mut lines = vec![format!(
        "{kind}, {} px, UNet {:.1} M parameters, VAE {:.1} M parameters, identity {}",
        description.resolution_px,
        description.unet_parameters as f64 / 1e6,
        description.vae_parameters as f64 / 1e6,
        description.identity
    )];
    if let Some(steps) = description.steps {
        lines.push(format!(
            "trained for {steps} denoising steps, which jobs take unless they say otherwise"
        ));
    }
    if let Some(model) = checkpoint.account_as() {
        lines.push(format!(
            "simulated GPUs count its memory as that of the published {} px model",
            model.resolution_px()
        ));
    }
    if let Some(device) = &description.device {
        let DescribedDevice {
            name,
            free_mib,
            total_mib,
            ..
        } = device;
        lines.push(format!("{free_mib} of {total_mib} MiB are free on {name}"));
    }
    for need in &description.needs {
        let guidance = if need.guided {
            "with guidance"
        } else {
            "no guidance"
        };
        let basis = match (need.kind, need.confirmed) {
            (DeviceKind::Cpu, true) => {
                "resident set of the engine, weights included; compared with measurements"
            }
            (_, true) => "compared with measurements",
            (_, false) => "CUDA context included; not compared with measurements",
        };
        lines.push(format!("{} {}, {guidance} ({basis}):", need.kind, need.dtype));
        for (predicted, mib) in need.predicted.iter().zip(need.mib) {
            let (plan, tightest) = (predicted.plan, predicted.tightest);
            let fits = match &description.device {
                Some(device) if mib > device.free_mib => "does not fit  ",
                Some(_) => "fits          ",
                None => "",
            };
            lines.push(format!("  {plan:<14} {mib:>6} MiB  {fits}{tightest}"));
        }
    }
    lines.join("\n")
}
