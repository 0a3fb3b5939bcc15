//! The command line of `latentfarm`: it parses arguments, runs one subcommand and prints text. Each
//! subcommand has a file or folder of its own.

mod args;
mod bench;
mod doctor;
mod events;
mod exit;
mod explain;
mod nats_config;
mod progress;
mod render;
mod report;
mod settings;
mod top;

use std::process::ExitCode;

use latentfarm_common::error::Chain;
use latentfarm_common::telemetry;

pub use args::Args;
use exit::ExitStatus;

/// Runs the subcommand of a parsed command line. An error is printed once, with all its causes.
pub fn main(args: Args) -> ExitCode {
    // The operator reads the command's own lines; by default the log adds errors only.
    if let Err(error) = telemetry::init("error") {
        eprintln!("error: {}", Chain(&error));
        return ExitStatus::Refused.code();
    }
    let outcome = match args.command {
        args::Command::Render(args) => render::main(*args),
        args::Command::Explain(args) => explain::main(&args),
        args::Command::Doctor(args) => Ok(doctor::main(&args)),
        args::Command::Bench(args) => bench::main(args),
        args::Command::Top(args) => top::main(&args),
        args::Command::NatsConfig(args) => nats_config::main(&args),
    };
    let status = outcome.unwrap_or_else(|error| {
        eprintln!("error: {}", Chain(error.source.as_ref()));
        error.status
    });
    status.code()
}
