//! Measures one part of the model at a time, in the process and with the allocator that the engine has.
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
//! Memory is what the process holds with the networks loaded, and its peak over warm-up and repetitions.

mod machine;
mod measure;
mod memory;
mod parts;
mod report;

use std::path::PathBuf;

use candle_core::{DType, Device};
use clap::ValueEnum;
use latentfarm_common::wire::memory::MemoryPlan;
use serde::{Deserialize, Serialize};

pub use machine::Machine;
pub use measure::measure;
pub use report::{EngineReport, PartReport, Report, WeightsReport};

use latentsync::{ModelError, WeightsError};

/// What can be measured, in the order of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
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
    /// As on the command line and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Load => "load",
            Self::Mel => "mel",
            Self::Whisper => "whisper",
            Self::VaeEncode => "vae-encode",
            Self::VaeDecode => "vae-decode",
            Self::Unet => "unet",
            Self::Window => "window",
        }
    }
}

/// How much work a part is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::Args)]
pub struct Sizes {
    /// Side of the face crop in pixels, a multiple of 64 (default: what the weights were made for)
    #[arg(long, value_name = "PX", value_parser = parse_resolution)]
    pub resolution: Option<usize>,
    /// Frames of a window
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = parse_frames)]
    pub frames: usize,
    /// Denoising steps of a window
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub steps: u32,
    /// Measured repetitions of every part
    #[arg(long, value_name = "N", default_value_t = 3,
          value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub repeat: u32,
    /// Memory plan: batched, sequential, sliced, two-pass-norm, offload or streamed
    #[arg(long, value_name = "PLAN", default_value_t = MemoryPlan::default())]
    pub plan: MemoryPlan,
}

/// One measurement.
#[derive(Clone, Debug)]
pub struct Settings {
    pub weights: PathBuf,
    pub part: Part,
    pub sizes: Sizes,
    /// Folder for inputs and outputs as `PART.safetensors`, to be checked by another implementation.
    pub save: Option<PathBuf>,
    pub device: Device,
    pub device_name: String,
    pub dtype: DType,
}

#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    #[error("cannot load the weights to measure")]
    Weights(#[source] WeightsError),
    #[error("cannot run `{}`", part.name())]
    Run {
        part: Part,
        #[source]
        source: ModelError,
    },
    #[error("cannot write tensors to `{}`", path.display())]
    Save {
        path: PathBuf,
        #[source]
        source: candle_core::Error,
    },
}

impl BenchError {
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

fn parse_frames(text: &str) -> Result<usize, String> {
    let frames: usize = text.parse().map_err(|_| "not a whole number".to_owned())?;
    if (1..=24).contains(&frames) {
        Ok(frames)
    } else {
        Err("not within 1..=24".to_owned())
    }
}
