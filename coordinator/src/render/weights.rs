//! The description of the weights in a folder, as `latentfarm-worker weights describe` prints it, and the folder
//! of the demo weights: the coordinator itself links no model code. `render` reads the description once in its
//! checks, and so does `latentfarm doctor`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
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
    /// The paths of the files in the folder.
    pub files: Vec<String>,
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
    #[error("cannot run `{program} weights {command}`")]
    Run {
        program: String,
        command: &'static str,
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
        let printed = run_weights(worker, "describe", &["--json".as_ref(), dir.as_os_str()])?;
        serde_json::from_slice(&printed).map_err(WeightsError::NotADescription)
    }

    /// Returns the memory that a window needs on a kind of device, or `None` if the worker program does not
    /// predict it.
    pub fn needs(&self, kind: DeviceKind, guided: bool) -> Option<MemoryRequirements> {
        let mut predicted = self.needs.iter();
        let found = predicted.find(|entry| entry.kind == kind && entry.guided == guided);
        found.map(|entry| MemoryRequirements { mib: entry.mib })
    }
}

/// Runs `WORKER weights demo` and returns the folder of the demo weights, which are written there if they are
/// missing.
pub fn demo_folder(worker: &Path) -> Result<PathBuf, WeightsError> {
    let printed = run_weights(worker, "demo", &[])?;
    Ok(OsStr::from_bytes(printed.trim_ascii_end()).into())
}

/// Runs a command of `WORKER weights` and returns what it printed.
fn run_weights(worker: &Path, command: &'static str, args: &[&OsStr]) -> Result<Vec<u8>, WeightsError> {
    let output = Command::new(worker)
        .args(["weights", command])
        .args(args)
        .output()
        .map_err(|source| WeightsError::Run {
            program: worker.display().to_string(),
            command,
            source,
        })?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let message = String::from_utf8_lossy(&output.stderr);
    let message = message.trim().trim_start_matches("error: ").to_owned();
    Err(WeightsError::Refused(message))
}
