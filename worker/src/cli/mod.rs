//! The command line of `latentfarm-worker`.

mod bench;
mod devices;
mod engine;
mod exit;
mod idle;
mod memtest;
mod probe;
mod run;
mod weights;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use latentfarm_common::error::Chain;
use latentfarm_common::telemetry;

use exit::refuse;

/// Renders chunks of latentfarm jobs on this machine.
#[derive(Parser, Debug)]
#[command(
    version,
    after_help = "\
Exit codes: 0 done, 1 failed, 2 wrong usage or input, 3 this machine cannot do the work."
)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Pull chunks from a farm and render them until told to stop
    ///
    /// Ctrl-C finishes the current chunk and leaves; a second one gives the chunk back at once.
    #[command(
        after_help = "Example:\n  latentfarm-worker run --nats nats://farm.example:4222 --weights /srv/latentsync"
    )]
    Run(run::RunArgs),
    /// Fetch, make, convert, check or describe model weights
    #[command(subcommand)]
    Weights(weights::WeightsCommand),
    /// Say what this machine has, what is free of it, and which tasks a worker would ask for
    #[command(after_help = "Example:\n  latentfarm-worker probe --device auto,cpu --json")]
    Probe(probe::ProbeArgs),
    /// Measure the model's speed and memory on this machine, part by part
    #[command(
        after_help = "Example:\n  latentfarm-worker bench --weights /srv/latentsync --threads 2 --parts unet,vae-decode"
    )]
    Bench(bench::BenchArgs),
    /// Test how the engine governs its memory on this machine; prints a table and a verdict
    ///
    /// Samples are told and possible, guidance can be switched, memory is clean after frames, steps, windows and
    /// errors, and nothing leaks.
    #[command(after_help = "Example:\n  latentfarm-worker memtest --weights /srv/latentsync --windows 200")]
    Memtest(memtest::MemtestArgs),
    /// Decode, crop, paste and encode for a worker (started by `run`)
    #[command(hide = true)]
    Media,
    /// Take tasks and do nothing for them (started by `latentfarm bench`)
    #[command(hide = true)]
    Idle(idle::IdleArgs),
}

/// Runs the command; its result is the process's exit code.
pub fn main(args: Args) -> ExitCode {
    if let Err(error) = telemetry::init("info") {
        return refuse(&error);
    }
    match args.command {
        Command::Media => media(),
        Command::Bench(args) => bench::main(&args),
        Command::Idle(args) => idle::main(args),
        Command::Memtest(args) => memtest::main(args),
        Command::Run(args) => run::main(args),
        Command::Probe(args) => probe::main(&args),
        Command::Weights(command) => weights::main(command),
    }
}

fn media() -> ExitCode {
    match crate::media::serve(std::io::stdin().lock(), std::io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{}", Chain(&error));
            ExitCode::FAILURE
        }
    }
}
