//! The `latentfarm` program: the operator's commands, and the coordinator that `latentfarm render` runs.

use std::process::ExitCode;

use git_version::git_version;
use latentfarm_coordinator::cli;

/// Version and commit, for `--version`. It is here and not in the library so that a new commit compiles this file alone.
const VERSION: &str = git_version!(
    args = ["--always", "--dirty", "--abbrev=10", "--exclude=*"],
    prefix = concat!(env!("CARGO_PKG_VERSION"), " (commit "),
    suffix = ")",
    fallback = env!("CARGO_PKG_VERSION")
);

fn main() -> ExitCode {
    share_one_arena();
    cli::main(VERSION)
}

/// Makes all threads allocate from one arena. By default glibc gives every thread an arena of its own, and
/// each arena keeps the memory of its busiest moment: over a long video the resident set would grow by some
/// megabytes. With one arena it stops growing after some seconds.
fn share_one_arena() {
    #[cfg(target_env = "gnu")]
    #[expect(unsafe_code, reason = "there is no safe form of this setting")]
    // SAFETY: the call sets one number of the allocator, and this process has no second thread yet.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}
