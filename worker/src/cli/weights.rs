//! `latentfarm-worker weights`: make, check and describe checkpoints.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use candle_core::{DType, Device};
use clap::{Subcommand, ValueEnum};
use serde::Serialize;

use super::refuse;
use crate::latentsync::{Checkpoint, LatentSync, WeightsError, synth};

#[derive(Subcommand, Debug)]
pub(super) enum WeightsCommand {
    /// Make random weights in the published layout, for trying the farm without a download
    ///
    /// They move the mouth region at random. Whatever is made with them says so.
    #[command(after_help = "Example:\n  latentfarm-worker weights synth --size tiny --out weights-tiny")]
    Synth {
        /// How large a model to make
        #[arg(long, value_enum)]
        size: SynthSize,
        /// Folder to write to: new, empty, or made by this command
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// Equal seeds give equal weights
        #[arg(long, default_value_t = 0)]
        seed: u64,
    },
    /// Load a checkpoint whole and say whether every tensor is there in its right shape
    #[command(after_help = "Example:\n  latentfarm-worker weights verify ~/latentsync")]
    Verify {
        /// Folder with the checkpoint
        dir: PathBuf,
    },
    /// Say what a checkpoint is, after checking the names and shapes of its tensors
    Describe {
        /// Folder with the checkpoint
        dir: PathBuf,
        /// One JSON object, for programs
        #[arg(long)]
        json: bool,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum SynthSize {
    /// A few MB: a window takes well under a second
    Tiny,
    /// Some hundred MB, 256 px: the memory and speed of a real shape, in small
    Small,
    /// 2.7 GB: the published sizes, 256 px, for measuring; a window takes minutes on a CPU
    Full,
}

/// What `describe` tells.
#[derive(Serialize)]
struct Description {
    identity: String,
    synthetic: bool,
    resolution_px: u32,
    unet_parameters: u64,
    vae_parameters: u64,
}

pub(super) fn main(command: WeightsCommand) -> ExitCode {
    let outcome = match command {
        WeightsCommand::Synth { size, out, seed } => make(size, &out, seed),
        WeightsCommand::Verify { dir } => verify(&dir),
        WeightsCommand::Describe { dir, json } => describe(&dir, json),
    };
    match outcome {
        Ok(text) => match writeln!(std::io::stdout(), "{text}") {
            Ok(()) => ExitCode::SUCCESS,
            Err(_closed) => ExitCode::FAILURE,
        },
        Err(error) => refuse(&error),
    }
}

fn make(size: SynthSize, out: &Path, seed: u64) -> Result<String, WeightsError> {
    let size = match size {
        SynthSize::Tiny => synth::Size::Tiny,
        SynthSize::Small => synth::Size::Small,
        SynthSize::Full => synth::Size::Full,
    };
    synth::synthesize(out, size, seed)?;
    Ok(format!("SYNTHETIC WEIGHTS in {}", out.display()))
}

fn verify(dir: &Path) -> Result<String, WeightsError> {
    let checkpoint = Checkpoint::open(dir)?;
    LatentSync::load(&checkpoint, &Device::Cpu, DType::F32)?;
    Ok(format!(
        "{}: complete, identity {}",
        dir.display(),
        checkpoint.identity()
    ))
}

fn describe(dir: &Path, json: bool) -> Result<String, WeightsError> {
    let checkpoint = Checkpoint::open(dir)?;
    let parameters = checkpoint.check_tensors()?;
    let description = Description {
        identity: checkpoint.identity().to_string(),
        synthetic: checkpoint.synthetic(),
        resolution_px: checkpoint.resolution_px(),
        unet_parameters: parameters.unet,
        vae_parameters: parameters.vae,
    };
    if json {
        return Ok(serde_json::json!(description).to_string());
    }
    let kind = if description.synthetic {
        "SYNTHETIC WEIGHTS"
    } else {
        "real weights"
    };
    Ok(format!(
        "{kind}, {} px, UNet {:.1} M values, VAE {:.1} M values, identity {}",
        description.resolution_px,
        description.unet_parameters as f64 / 1e6,
        description.vae_parameters as f64 / 1e6,
        description.identity
    ))
}
