//! `latentfarm`: the operator's command and the coordinator.

use std::process::ExitCode;

use clap::Parser as _;
use latentfarm_coordinator::cli;

fn main() -> ExitCode {
    share_one_arena();
    cli::main(cli::Args::parse())
}

/// By default the C library gives every thread an arena of its own, and each keeps what its busiest moment took: over a
/// long video the resident set would creep up by some megabytes. With one it stays where it was after seconds.
fn share_one_arena() {
    #[cfg(target_env = "gnu")]
    #[expect(unsafe_code, reason = "there is no safe form of this setting")]
    // SAFETY: it sets a number, before this process has a second thread.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}
