//! Measures one part of the model at a time, in a process and with the allocator of an engine.
//! `latentfarm-worker bench` starts `latentfarm-engine bench` once for each part.
//!
//! | part         | what is timed                                                                            |
//! |--------------|------------------------------------------------------------------------------------------|
//! | `load`       | checkpoint folder to loaded networks, files in the page cache                            |
//! | `mel`        | 30 s of samples to the track's maximum and a `(1, 80, 3000)` log-mel spectrogram         |
//! | `whisper`    | the encoder on `(1, 80, 3000)`, all states kept                                          |
//! | `vae-encode` | one `(1, 3, R, R)` picture to its moments                                                |
//! | `vae-decode` | one `(1, 4, R/8, R/8)` latent to a picture                                               |
//! | `unet`       | one forward pass over `(1, 13, frames, R/8, R/8)`                                        |
//! | `window`     | two encodes a frame, all steps without guidance, one decode a frame, masking and pasting |
//!
//! Every part runs once unmeasured first; the window's warm-up is a window of two frames and one step.
//! Memory is what the process holds with the networks loaded, and its peak over warm-up and repetitions. On a
//! GPU the pool's peaks are reported too, and the driver's free memory, which is sampled during one more
//! repetition, so that sampling costs the timed ones nothing.

mod device_memory;
mod machine;
mod measure;
mod parts;
mod report;
mod usage;

use std::path::PathBuf;

use candle_core::{DType, Device};
use clap::ValueEnum;
use clap::builder::RangedU64ValueParser;
use latentfarm_common::wire::memory::MemoryPlan;
use serde::{Deserialize, Serialize};

pub use device_memory::DeviceMemoryUse;
pub use machine::BenchMachine;
pub use measure::measure;
pub use report::{BenchReport, EngineReport, PartReport, WeightsReport};

use latentsync::{ModelError, WeightsError};

/// A part of the model that can be measured, see the table in the module's docs; in the order of a report.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    ValueEnum,
    Serialize,
    Deserialize,
    strum::IntoStaticStr,
)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum Part {
    Load,
    Mel,
    Whisper,
    VaeEncode,
    VaeDecode,
    Unet,
    Window,
}

impl Part {
    /// Returns the part's name on the command line and in JSON.
    pub fn name(self) -> &'static str {
        self.into()
    }
}

/// How much work a part is measured with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::Args)]
pub struct Sizes {
    /// Side of the face crop in pixels, a multiple of 64 (default: what the weights were trained for)
    #[arg(long, value_name = "PX", value_parser = parse_resolution)]
    pub resolution: Option<usize>,
    /// Number of frames of a window
    #[arg(long, value_name = "N", default_value_t = 16,
          value_parser = RangedU64ValueParser::<usize>::new().range(1..=24))]
    pub frames: usize,
    /// Denoising steps of a window
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub steps: u32,
    /// Measured repetitions of every part
    #[arg(long, value_name = "N", default_value_t = 3,
          value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub repeat: u32,
    /// Memory plan that the part runs under: batched, sequential, sliced, two-pass-norm, offload or streamed
    #[arg(long, value_name = "PLAN", default_value_t = MemoryPlan::default())]
    pub plan: MemoryPlan,
}

/// What one measurement runs, on what and with what.
#[derive(Clone, Debug)]
pub struct BenchSettings {
    /// The folder that contains the checkpoint.
    pub weights: PathBuf,
    /// The part that is measured.
    pub part: Part,
    /// How much work the part is measured with.
    pub sizes: Sizes,
    /// Folder for inputs and outputs as `PART.safetensors`, with which another implementation can be
    /// compared.
    pub save: Option<PathBuf>,
    /// The device that the networks run on.
    pub device: Device,
    /// The device's part of the numerics fingerprint: `cpu`, or a GPU's model.
    pub device_name: String,
    /// The number type of the networks.
    pub dtype: DType,
}

/// Why a part cannot be measured.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The weights are missing or do not fit the model.
    #[error("cannot load the weights to measure")]
    Weights(#[source] WeightsError),
    /// The part fails while it runs.
    #[error("cannot run `{}`", part.name())]
    Run {
        part: Part,
        #[source]
        source: ModelError,
    },
    /// The inputs and the output cannot be saved.
    #[error("cannot write tensors to `{}`", path.display())]
    Save {
        path: PathBuf,
        #[source]
        source: candle_core::Error,
    },
}

impl BenchError {
    /// Returns the error for a tensor operation of `part` that failed.
    fn compute(part: Part, source: candle_core::Error) -> Self {
        let what = "compute";
        Self::Run {
            part,
            source: ModelError::Compute { what, source },
        }
    }
}

fn parse_resolution(text: &str) -> Result<usize, String> {
    let side: usize = text.parse().map_err(|_| "not a whole number".to_owned())?;
    if (64..=1024).contains(&side) && side.is_multiple_of(64) {
        Ok(side)
    } else {
        Err("not a multiple of 64 within 64..=1024".to_owned())
    }
}
