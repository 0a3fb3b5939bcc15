//! The description of the weights in a folder, as `latentfarm-worker weights describe` prints it: the
//! coordinator itself links no model code. `render` reads it once in its checks, and so does `latentfarm
//! doctor`.

use std::path::Path;
use std::process::Command;

use latentfarm_common::digest::Digest;
use latentfarm_common::wire::job::WeightsKind;
use latentfarm_common::wire::memory::{DeviceKind, MemoryPlan, MemoryRequirements};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

/// The description of a checkpoint.
#[derive(Clone, Debug, Deserialize)]
pub struct WeightsInfo {
    /// Digest that identifies the checkpoint.
    #[serde(deserialize_with = "digest_from_text")]
    pub identity: Digest,
    /// What the weights are.
    pub kind: WeightsKind,
    /// The number of denoising steps that they were trained for, if their folder states it.
    pub steps: Option<u32>,
    /// Side of the face crop.
    pub resolution_px: u32,
    pub unet_parameters: u64,
    pub vae_parameters: u64,
    needs: Vec<PredictedNeeds>,
}

/// Parses a digest of 64 hexadecimal digits.
fn digest_from_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Digest, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(D::Error::custom)
}

/// Memory requirements on one kind of device, with or without guidance.
#[derive(Clone, Debug, Deserialize)]
struct PredictedNeeds {
    kind: DeviceKind,
    guided: bool,
    mib: [u64; MemoryPlan::COUNT],
}

/// The reason for which the weights cannot be described.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    #[error("cannot run `{program} weights describe`")]
    Run {
        program: String,
        #[source]
        source: std::io::Error,
    },
    /// The worker program's own message.
    #[error("{0}")]
    Refused(String),
    #[error("cannot parse the output of `weights describe`: is latentfarm-worker of another release?")]
    NotADescription(#[source] serde_json::Error),
}

impl WeightsInfo {
    /// Runs `WORKER weights describe` on the folder `dir`.
    pub fn read(worker: &Path, dir: &Path) -> Result<Self, WeightsError> {
        let output = Command::new(worker)
            .args(["weights", "describe", "--json"])
            .arg(dir)
            .output()
            .map_err(|source| WeightsError::Run {
                program: worker.display().to_string(),
                source,
            })?;
        if !output.status.success() {
            let message = String::from_utf8_lossy(&output.stderr);
            let message = message.trim().trim_start_matches("error: ").to_owned();
            return Err(WeightsError::Refused(message));
        }
        serde_json::from_slice(&output.stdout).map_err(WeightsError::NotADescription)
    }

    /// Returns the memory that a window needs on a kind of device, or `None` if the worker program does not
    /// predict it.
    pub fn needs(&self, kind: DeviceKind, guided: bool) -> Option<MemoryRequirements> {
        let mut predicted = self.needs.iter();
        let found = predicted.find(|entry| entry.kind == kind && entry.guided == guided);
        found.map(|entry| MemoryRequirements { mib: entry.mib })
    }
}
