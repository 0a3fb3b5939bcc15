//! What a checkpoint is, and what it needs.

use std::path::Path;

use candle_core::DType;
use latentfarm_common::wire::memory::{DeviceKind, MemoryPlan};
use serde::Serialize;

use latentsync::cost::prediction::{MemoryPredictor, Prediction, is_confirmed};
use latentsync::cost::shape::ModelShape;
use latentsync::{Checkpoint, WeightsError};

/// What `describe` tells.
#[derive(Serialize)]
struct Description {
    identity: String,
    synthetic: bool,
    resolution_px: u32,
    unet_parameters: u64,
    vae_parameters: u64,
    needs: Vec<Need>,
}

/// What a task needs of one kind of device.
#[derive(Serialize)]
struct Need {
    kind: DeviceKind,
    dtype: &'static str,
    guided: bool,
    /// By plan, from the fastest to the leanest.
    mib: [u64; MemoryPlan::COUNT],
    /// Whether such figures were compared with measured ones.
    confirmed: bool,
    /// What decides, by plan.
    #[serde(skip)]
    predicted: Vec<Prediction>,
}

/// The text for a person, or one JSON object.
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

fn needs(checkpoint: &Checkpoint) -> candle_core::Result<Vec<Need>> {
    let accounted = ModelShape::accounted(checkpoint).map_err(candle_core::Error::wrap)?;
    let devices = [
        (DeviceKind::Cpu, DType::F32, ModelShape::of(checkpoint)),
        (DeviceKind::Cuda, DType::F16, accounted),
    ];
    let mut needs = Vec::new();
    for (kind, dtype, shape) in devices {
        let mut predictor = MemoryPredictor::with_dtype(shape, kind, dtype)?;
        for guided in [false, true] {
            needs.push(Need {
                kind,
                dtype: dtype.as_str(),
                guided,
                mib: predictor.needs(guided).mib,
                confirmed: is_confirmed(kind),
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
        "{kind}, {} px, UNet {:.1} M values, VAE {:.1} M values, identity {}",
        description.resolution_px,
        description.unet_parameters as f64 / 1e6,
        description.vae_parameters as f64 / 1e6,
        description.identity
    )];
    if let Some(model) = checkpoint.account_as() {
        lines.push(format!(
            "on simulated GPUs counted as the published model of {} px",
            model.resolution_px()
        ));
    }
    for need in &description.needs {
        let guidance = if need.guided {
            "with guidance"
        } else {
            "no guidance"
        };
        let standing = match (need.kind, need.confirmed) {
            (DeviceKind::Cpu, true) => {
                "the engine's resident set, weights included; compared with measurements"
            }
            (_, true) => "compared with measurements",
            (_, false) => "context included; not confirmed on a GPU",
        };
        lines.push(format!("{} {}, {guidance} ({standing}):", need.kind, need.dtype));
        for (predicted, mib) in need.predicted.iter().zip(need.mib) {
            let (plan, tightest) = (predicted.plan, predicted.tightest);
            lines.push(format!("  {plan:<14} {mib:>6} MiB  {tightest}"));
        }
    }
    lines.join("\n")
}
