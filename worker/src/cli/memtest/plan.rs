//! What one run of the checks is about: what the command line says, and what was found by it.

use std::path::PathBuf;

use crate::cli::engine;
use latentsync::Checkpoint;

#[derive(clap::Args, Debug)]
pub(in crate::cli) struct MemtestArgs {
    /// Folder with the model weights
    #[arg(long, value_name = "DIR", env = "LATENTFARM_WEIGHTS")]
    pub(super) weights: PathBuf,
    /// Where to compute: `cpu`, or `cuda:N` with a CUDA engine
    #[arg(long, default_value = "cpu")]
    pub(super) device: String,
    /// Windows of the search for leaks
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(50..=100_000))]
    pub(super) windows: u32,
    /// Denoising steps of the windows before
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(2..=1000))]
    pub(super) steps: u32,
    /// Threads to compute with (default: all cores)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: Option<u32>,
    /// Seconds without a word after which the engine is taken to hang; a denoising step must end within them
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(super) silence_limit: u64,
    /// Engine program (default: latentfarm-engine beside this program)
    #[arg(long, value_name = "PATH")]
    engine: Option<PathBuf>,
    /// One JSON object in place of the table
    #[arg(long)]
    pub(super) json: bool,
    /// Given to the engine that is tested
    #[arg(long, hide = true, value_name = "ARG", allow_hyphen_values = true)]
    pub(super) engine_arg: Vec<String>,
}

/// What to test.
pub(super) struct Plan {
    pub(super) args: MemtestArgs,
    pub(super) checkpoint: Checkpoint,
    pub(super) engine: PathBuf,
    pub(super) threads: usize,
}

impl Plan {
    /// Everything that the user can get wrong, found out first.
    pub(super) fn new(args: MemtestArgs) -> anyhow::Result<Self> {
        let engine = engine::beside(args.engine.as_deref(), "latentfarm-engine")?;
        engine::check_program(&engine)?;
        let checkpoint = Checkpoint::open(&args.weights)?;
        checkpoint.check_tensors()?;
        Ok(Self {
            checkpoint,
            engine,
            threads: engine::threads(args.threads),
            args,
        })
    }
}
