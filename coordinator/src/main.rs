//! `latentfarm`: the operator's command and the coordinator.

use std::process::ExitCode;

use clap::Parser as _;
use latentfarm_coordinator::cli;

fn main() -> ExitCode {
    cli::main(cli::Args::parse())
}
