//! What a checkpoint is, and what it needs.

use std::path::Path;

use candle_core::DType;
use latentfarm_common::wire::memory::{DeviceKind, MemoryPlan};
use serde::Serialize;

use latentsync::cost::model::{Explanation, MemoryModel};
use latentsync::cost::walk::ModelShape;
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
    explained: Vec<Explanation>,
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
        for guided in [false, true] {
            let explained = MemoryPlan::ALL
                .into_iter()
                .map(|plan| MemoryModel::explain(&shape, kind, dtype, plan, guided))
                .collect::<candle_core::Result<Vec<_>>>()?;
            needs.push(Need {
                kind,
                dtype: dtype.as_str(),
                guided,
                mib: MemoryModel::needs(&shape, kind, dtype, guided)?.mib,
                confirmed: MemoryModel::is_confirmed(kind),
                explained,
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
        for (explained, mib) in need.explained.iter().zip(need.mib) {
            let decides = explained.terms.first().map(ToString::to_string);
            lines.push(format!(
                "  {:<14} {mib:>6} MiB  {}",
                explained.plan,
                decides.unwrap_or_default()
            ));
        }
    }
    lines.join("\n")
}
