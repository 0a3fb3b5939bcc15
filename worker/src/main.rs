//! The program `latentfarm-worker` renders chunks on one machine of a farm; [`cli`] does all its work.

use std::process::ExitCode;

use clap::Parser as _;
use latentfarm_worker::cli::{self, Args};

fn main() -> ExitCode {
    cli::main(Args::parse())
}
