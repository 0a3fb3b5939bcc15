//! The command line of `latentfarm`: arguments and text. Each subcommand has a file of its own.

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

/// Runs a command line; prints its error, if any, once and whole.
pub fn main(args: Args) -> ExitCode {
    // The operator reads the command's own lines; the log is for what is wrong underneath.
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
