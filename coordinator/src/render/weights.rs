//! What the weights in a folder are, as `latentfarm-worker weights describe` answers: the coordinator itself links no
//! model code. Read once, before a render begins, and by `latentfarm doctor`.

use std::path::Path;
use std::process::Command;

use latentfarm_common::digest::Digest;
use latentfarm_common::wire::memory::{DeviceKind, MemoryPlan, MemoryRequirements};
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
    needs: Vec<PredictedNeeds>,
}

/// MemoryRequirements on one kind of device, with or without guidance.
#[derive(Clone, Debug, Deserialize)]
struct PredictedNeeds {
    kind: DeviceKind,
    guided: bool,
    mib: [u64; MemoryPlan::COUNT],
}

#[derive(Debug, thiserror::Error)]
pub enum WeightsProblem {
    #[error("cannot run `{program} weights describe`")]
    Run {
        program: String,
        #[source]
        source: std::io::Error,
    },
    /// The worker program's own message.
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

    /// What a window needs on a kind of device, as the worker program predicts it; `None` if it does not.
    pub fn needs(&self, kind: DeviceKind, guided: bool) -> Option<MemoryRequirements> {
        let mut predicted = self.needs.iter();
        let found = predicted.find(|entry| entry.kind == kind && entry.guided == guided);
        found.map(|entry| MemoryRequirements { mib: entry.mib })
    }
}
