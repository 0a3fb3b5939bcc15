//! The command line of `latentfarm-worker`: `main.rs` parses it, and one module here runs each subcommand.

mod bench;
mod caches;
mod device_args;
mod engine_program;
mod engines;
mod exit;
mod idle;
mod memtest;
mod one_device;
mod probe;
mod run;
mod weights;

use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use latentfarm_common::telemetry;

use exit::{failed, usage_error};

/// Renders chunks of latentfarm jobs on this machine.
#[derive(Parser, Debug)]
#[command(
    name = "latentfarm-worker",
    version,
    after_help = "\
Exit codes: 0 done, 1 failed, 2 wrong usage or input, 3 this machine cannot do the work."
)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Pull chunks from a farm and render them until a signal ends the worker
    ///
    /// The first Ctrl-C finishes the current chunk and then ends the worker; the second one ends it at once,
    /// and the farm renders the chunk elsewhere.
    #[command(after_help = "\
Examples:
  latentfarm-worker run --join gpu1.join --weights /srv/latentsync
  latentfarm-worker run --nats nats://farm.example:4222 --weights /srv/latentsync --tag eu,nvenc")]
    Run(Box<run::RunArgs>),
    /// Fetch, make, convert, check or describe model weights, or find the demo weights
    #[command(subcommand)]
    Weights(weights::WeightsCommand),
    /// Print what this machine has, how much of it is free, and which tasks a worker on it would pull
    #[command(after_help = "Example:\n  latentfarm-worker probe --device auto,cpu --json")]
    Probe(probe::ProbeArgs),
    /// Measure the model's speed and memory on this machine, part by part
    #[command(
        after_help = "Example:\n  latentfarm-worker bench --weights /srv/latentsync --threads 2 --parts unet,vae-decode"
    )]
    Bench(bench::BenchArgs),
    /// Check how the engine manages its memory on this machine, and print a table with a verdict
    ///
    /// The checks: every stage reports plausible memory samples; guidance can be switched on and off between
    /// windows; frames, steps, windows and errors leave no memory behind; many windows do not leak.
    #[command(after_help = "Example:\n  latentfarm-worker memtest --weights /srv/latentsync --windows 200")]
    Memtest(memtest::MemtestArgs),
    /// Decode, crop, paste and encode for a worker; `run` starts this process
    #[command(hide = true)]
    Media,
    /// Take tasks and finish them without any work; `latentfarm bench` starts this process
    #[command(hide = true)]
    Idle(idle::IdleArgs),
}

/// Parses this process's command line, runs its subcommand and returns the exit code of the process; `version` is what
/// `--version` prints.
pub fn main(version: &'static str) -> ExitCode {
    let matches = Args::command().version(version).get_matches();
    let args = Args::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    if let Err(error) = telemetry::init("info") {
        return usage_error(&error);
    }
    match args.command {
        Command::Media => match crate::media::serve(std::io::stdin().lock(), std::io::stdout().lock()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => failed(&error, 1),
        },
        Command::Bench(args) => bench::main(&args),
        Command::Idle(args) => idle::main(args),
        Command::Memtest(args) => memtest::main(args),
        Command::Run(args) => run::main(*args),
        Command::Probe(args) => probe::main(&args),
        Command::Weights(command) => weights::main(command),
    }
}
