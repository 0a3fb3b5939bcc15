//! The program `latentfarm-worker` renders chunks on one machine of a farm; [`cli`] does all its work.

use std::process::ExitCode;

use git_version::git_version;
use latentfarm_worker::cli;

/// Version and commit, for `--version`. It is here and not in the library so that a new commit compiles this file alone.
const VERSION: &str = git_version!(
    args = ["--always", "--dirty", "--abbrev=10", "--exclude=*"],
    prefix = concat!(env!("CARGO_PKG_VERSION"), " (commit "),
    suffix = ")",
    fallback = env!("CARGO_PKG_VERSION")
);

fn main() -> ExitCode {
    cli::main(VERSION)
}
