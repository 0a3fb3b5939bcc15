//! What the weights in a folder are, as `latentfarm-worker weights describe` tells. The coordinator itself
//! links no model code.

use std::path::Path;
use std::process::Command;

use latentfarm_common::digest::Digest;
use serde::Deserialize;

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

    /// Host memory of one worker that renders with these weights on the CPU, in MiB: weights in f32, the
    /// activations of a window, and the media child.
    pub fn need_mib(&self, picture_bytes: u64) -> u64 {
        let weights = (self.unet_parameters + self.vae_parameters) * 4;
        // f32 activations of 16 frames with unsliced attention grow with the square of the crop's side; at
        // 256 px the full-size model's are about 2 GiB, smaller models stay below that.
        let side = u64::from(self.resolution_px);
        let full_size = 1_267_099_844;
        let activations = (2 << 30) * side * side / (256 * 256);
        let scaled = activations * self.unet_parameters.min(full_size).isqrt() / u64::isqrt(full_size);
        // The media child holds two windows of pictures and one as RGB.
        let media = 64 * picture_bytes + (300 << 20);
        (weights + scaled + media) >> 20
    }
}
