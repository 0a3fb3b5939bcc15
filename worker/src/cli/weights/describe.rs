//! `weights describe` prints what a checkpoint is and how much memory it needs under each memory plan.

use std::path::Path;

use candle_core::DType;
use latentfarm_common::wire::memory::{DeviceKind, MemoryPlan};
use serde::Serialize;

use latentsync::cost::prediction::{MemoryPrediction, MemoryPredictor, is_validated};
use latentsync::cost::shape::ModelShape;
use latentsync::{Checkpoint, WeightsError};

/// What `describe` prints; `--json` prints it as it is.
#[derive(Serialize)]
struct Description {
    identity: String,
    synthetic: bool,
    resolution_px: u32,
    unet_parameters: u64,
    vae_parameters: u64,
    needs: Vec<TaskMemory>,
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

/// Returns the description as text, or as one JSON object.
pub(super) fn describe(dir: &Path, json: bool) -> Result<String, WeightsError> {
    let checkpoint = Checkpoint::open(dir)?;
    let parameters = checkpoint.check_tensors()?;
    let description = Description {
        identity: checkpoint.identity().to_string(),
        synthetic: checkpoint.synthetic(),
        resolution_px: checkpoint.resolution_px(),
        unet_parameters: parameters.unet,
        vae_parameters: parameters.vae,
        needs: needs(&checkpoint).map_err(|source| WeightsError::Read {
            path: dir.to_owned(),
            source,
        })?,
    };
    if json {
        return Ok(serde_json::json!(description).to_string());
    }
    Ok(text(&description, &checkpoint))
}

fn needs(checkpoint: &Checkpoint) -> candle_core::Result<Vec<TaskMemory>> {
    let accounted = ModelShape::accounted(checkpoint).map_err(candle_core::Error::wrap)?;
    let devices = [
        (DeviceKind::Cpu, DType::F32, ModelShape::of(checkpoint)),
        (DeviceKind::Cuda, DType::F16, accounted),
    ];
    let mut needs = Vec::new();
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
    let kind = if description.synthetic {
        "SYNTHETIC WEIGHTS"
    } else {
        "real weights"
    };
    let mut lines = vec![format!(
        "{kind}, {} px, UNet {:.1} M parameters, VAE {:.1} M parameters, identity {}",
        description.resolution_px,
        description.unet_parameters as f64 / 1e6,
        description.vae_parameters as f64 / 1e6,
        description.identity
    )];
    if let Some(model) = checkpoint.account_as() {
        lines.push(format!(
            "simulated GPUs count its memory as that of the published {} px model",
            model.resolution_px()
        ));
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
            lines.push(format!("  {plan:<14} {mib:>6} MiB  {tightest}"));
        }
    }
    lines.join("\n")
}
