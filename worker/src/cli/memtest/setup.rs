//! The arguments of `memtest`, and what they lead to once they are checked.

use std::path::PathBuf;

use crate::cli::engine_program::thread_count;
use crate::cli::one_device::{DeviceEngine, OneDeviceArgs};
use latentsync::Checkpoint;

#[derive(clap::Args, Debug)]
pub(in crate::cli) struct MemtestArgs {
    /// Folder with the model weights
    #[arg(long, value_name = "DIR", env = "LATENTFARM_WEIGHTS")]
    pub(super) weights: PathBuf,
    #[command(flatten)]
    device: OneDeviceArgs,
    /// Number of windows to render in search of leaks
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(50..=100_000))]
    pub(super) windows: u32,
    /// Number of denoising steps of the windows before that
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(2..=1000))]
    pub(super) steps: u32,
    /// Number of threads to compute with (default: all cores)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: Option<u32>,
    /// Seconds without a message after which the engine counts as hung; every denoising step must take less
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(super) silence_limit: u64,
    /// Print one JSON object instead of the table
    #[arg(long)]
    pub(super) json: bool,
    /// Argument to pass on to the engine under test
    #[arg(long, hide = true, value_name = "ARG", allow_hyphen_values = true)]
    pub(super) engine_arg: Vec<String>,
}

/// The checked arguments, with the checkpoint that they name.
pub(super) struct Setup {
    pub(super) args: MemtestArgs,
    pub(super) checkpoint: Checkpoint,
    pub(super) threads: usize,
}

impl Setup {
    /// Checks the arguments; an error is one that the user can put right.
    pub(super) fn new(args: MemtestArgs) -> anyhow::Result<Self> {
        args.device.check()?;
        let checkpoint = Checkpoint::open(&args.weights)?;
        checkpoint.check_tensors()?;
        Ok(Self {
            checkpoint,
            threads: thread_count(args.threads),
            args,
        })
    }

    /// Returns the engine for the device under test.
    ///
    /// # Errors
    /// Fails if this machine has no such device that can be used.
    pub(super) fn engine(&self) -> anyhow::Result<DeviceEngine> {
        self.args.device.choose()
    }
}
