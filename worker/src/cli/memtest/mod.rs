//! `latentfarm-worker memtest`: does the engine govern its memory on this machine?
//!
//! It starts engines as `run` does, renders windows of made-up faces and sound, and looks at what they tell.

mod inputs;
mod plan;
mod process;
mod report;
mod suite;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use latentfarm_common::error::Chain;

use super::exit::{EXIT_UNFIT, refuse};
use latentsync::Checkpoint;
use plan::Plan;

#[derive(clap::Args, Debug)]
pub(super) struct MemtestArgs {
    /// Folder with the model weights
    #[arg(long, value_name = "DIR", env = "LATENTFARM_WEIGHTS")]
    weights: PathBuf,
    /// Where to compute: `cpu`, or `cuda:N` with a CUDA engine
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Windows of the search for leaks
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(50..=100_000))]
    windows: u32,
    /// Denoising steps of the windows before
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(2..=1000))]
    steps: u32,
    /// Threads to compute with (default: all cores)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: Option<u32>,
    /// Seconds without a word after which the engine is taken to hang; a denoising step must end within them
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    silence_limit: u64,
    /// Engine program (default: latentfarm-engine beside this program)
    #[arg(long, value_name = "PATH")]
    engine: Option<PathBuf>,
    /// One JSON object in place of the table
    #[arg(long)]
    json: bool,
    /// Given to the engine that is tested
    #[arg(long, hide = true, value_name = "ARG", allow_hyphen_values = true)]
    engine_arg: Vec<String>,
}

pub(super) fn main(args: MemtestArgs) -> ExitCode {
    let json = args.json;
    let plan = match plan(args) {
        Ok(plan) => plan,
        Err(error) => return refuse(error.as_ref()),
    };
    let report = match suite::run(&plan) {
        Ok(report) => report,
        Err(error) => {
            tracing::error!("{}", Chain(error.as_ref()));
            return ExitCode::from(EXIT_UNFIT);
        }
    };
    let text = if json { report.json() } else { report.table() };
    match writeln!(std::io::stdout(), "{}", text.trim_end()) {
        Ok(()) if report.passed() => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

/// Everything that the user can get wrong, found out first.
fn plan(args: MemtestArgs) -> anyhow::Result<Plan> {
    let own = std::env::current_exe().context("cannot find out where this program lies")?;
    let engine = args
        .engine
        .unwrap_or_else(|| own.with_file_name("latentfarm-engine"));
    super::run::check_program(&engine)?;
    let checkpoint = Checkpoint::open(&args.weights)?;
    checkpoint.check_tensors()?;
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    Ok(Plan {
        checkpoint,
        weights: args.weights,
        device: args.device,
        windows: args.windows,
        steps: args.steps,
        threads: match args.threads {
            Some(threads) => usize::try_from(threads)?,
            None => cores,
        },
        engine,
        engine_args: args.engine_arg,
        silence_limit: Duration::from_secs(args.silence_limit),
    })
}
