//! What the weights in a folder are, as `latentfarm-worker weights describe` tells. The coordinator itself
//! links no model code.

use std::path::Path;
use std::process::Command;

use latentfarm_common::digest::Digest;
use latentfarm_common::wire::memory::{DeviceKind, Needs, Rung};
use serde::Deserialize;

use crate::dispatch::JobNeeds;

/// Host memory that a worker takes off for its media child before it offers the rest.
const WORKERS_KEEP_MIB: u64 = 256;

/// Description of a checkpoint.
#[derive(Clone, Debug, Deserialize)]
pub struct WeightsInfo {
    /// Digest of the checkpoint, 64 hexadecimal digits.
    identity: String,
    /// Random weights, made by `weights synth`.
    pub synthetic: bool,
    /// Side of the face crop.
    pub resolution_px: u32,
    /// Values in the UNet.
    pub unet_parameters: u64,
    /// Values in the VAE.
    pub vae_parameters: u64,
    /// Absent in the answer of older releases.
    #[serde(default)]
    needs: Vec<PredictedNeeds>,
}

/// Needs on one kind of device, with or without guidance.
#[derive(Clone, Debug, Deserialize)]
struct PredictedNeeds {
    kind: DeviceKind,
    guided: bool,
    mib: [u64; Rung::COUNT],
}

#[derive(Debug, thiserror::Error)]
pub enum WeightsProblem {
    #[error("cannot run `{program} weights describe`")]
    Run {
        program: String,
        #[source]
        source: std::io::Error,
    },
    /// The worker's own words.
    #[error("{0}")]
    Refused(String),
    #[error("`weights describe` answered something else than a description: is another release installed?")]
    Answer(#[source] serde_json::Error),
    #[error("`weights describe` answered without an identity")]
    Identity(#[from] latentfarm_common::digest::InvalidDigest),
}

impl WeightsInfo {
    /// Asks the worker program about `dir`.
    pub fn read(worker: &Path, dir: &Path) -> Result<Self, WeightsProblem> {
        let output = Command::new(worker)
            .args(["weights", "describe", "--json"])
            .arg(dir)
            .output()
            .map_err(|source| WeightsProblem::Run {
                program: worker.display().to_string(),
                source,
            })?;
        if !output.status.success() {
            let words = String::from_utf8_lossy(&output.stderr);
            let words = words.trim().trim_start_matches("error: ").to_owned();
            return Err(WeightsProblem::Refused(words));
        }
        let info: Self = serde_json::from_slice(&output.stdout).map_err(WeightsProblem::Answer)?;
        info.identity()?;
        Ok(info)
    }

    pub fn identity(&self) -> Result<Digest, WeightsProblem> {
        Ok(self.identity.parse()?)
    }

    /// What a window needs by kind of device, as the worker program predicts it. Where it does not (an older
    /// release), a rough figure for the CPU alone. `picture_bytes`: one frame as it is decoded.
    pub fn needs(&self, guided: bool, picture_bytes: u64) -> JobNeeds {
        // The media child holds two windows of pictures and one as RGB; workers keep room for a small one anyway.
        let media_mib = ((64 * picture_bytes + (300 << 20)) >> 20).saturating_sub(WORKERS_KEEP_MIB);
        let of = |kind: DeviceKind| {
            let found = self
                .needs
                .iter()
                .find(|entry| entry.kind == kind && entry.guided == guided);
            found.map(|entry| Needs { mib: entry.mib })
        };
        let cpu = of(DeviceKind::Cpu).unwrap_or(Needs {
            mib: [self.rough_cpu_mib(); Rung::COUNT],
        });
        JobNeeds {
            cpu: Some(cpu),
            cuda: of(DeviceKind::Cuda),
            media_mib,
        }
    }

    /// Weights in f32, and the activations of a window.
    fn rough_cpu_mib(&self) -> u64 {
        let weights = (self.unet_parameters + self.vae_parameters) * 4;
        // f32 activations of 16 frames with unsliced attention grow with the square of the crop's side; at
        // 256 px the full-size model's are about 2 GiB, smaller models stay below that.
        let side = u64::from(self.resolution_px);
        let full_size = 1_267_099_844;
        let activations = (2 << 30) * side * side / (256 * 256);
        let scaled = activations * self.unet_parameters.min(full_size).isqrt() / u64::isqrt(full_size);
        (weights + scaled) >> 20
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DESCRIBED: &str = r#"{
        "identity": "00", "synthetic": true, "resolution_px": 256, "unet_parameters": 1000, "vae_parameters": 10,
        "needs": [
            {"kind": "cpu", "dtype": "f32", "guided": false, "mib": [70, 60, 50, 40, 30, 20, 10], "confirmed": true},
            {"kind": "cuda", "dtype": "f16", "guided": true, "mib": [7, 6, 5, 4, 3, 2, 1], "confirmed": false}
        ]}"#;

    #[test]
    fn needs_are_read_by_device_and_guidance_and_the_media_child_is_counted_on_the_host() {
        let info: WeightsInfo = serde_json::from_str(DESCRIBED).unwrap();
        let plain = info.needs(false, 1 << 20);
        assert_eq!(plain.of(DeviceKind::Cpu).unwrap().leanest(), 10);
        assert_eq!(plain.of(DeviceKind::Cuda), None);
        assert_eq!(
            (plain.beside(DeviceKind::Cpu), plain.beside(DeviceKind::Cuda)),
            (108, 0)
        );
        assert_eq!(info.needs(true, 0).of(DeviceKind::Cuda).unwrap().leanest(), 1);
    }

    #[test]
    fn a_worker_that_predicts_nothing_leaves_a_rough_figure_for_the_cpu() {
        let older = r#"{"identity": "00", "synthetic": false, "resolution_px": 256,
            "unet_parameters": 1267099844, "vae_parameters": 80000000}"#;
        let info: WeightsInfo = serde_json::from_str(older).unwrap();
        let needs = info.needs(false, 0);
        assert_eq!(needs.of(DeviceKind::Cuda), None);
        let mib = needs.of(DeviceKind::Cpu).unwrap().leanest();
        assert!((7000..8000).contains(&mib), "{mib}");
    }
}
