//! `latentfarm-worker`: one machine's part of a render farm.

use std::process::ExitCode;

use clap::Parser as _;
use latentfarm_worker::cli::{self, Args};

fn main() -> ExitCode {
    cli::main(Args::parse())
}
