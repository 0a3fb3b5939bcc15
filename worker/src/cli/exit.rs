//! How a command ends: what it prints last, and its exit code.

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Context as _;
use latentfarm_common::error::Chain;

/// Exit code of a machine that cannot do the work: starting the worker again would not help.
pub(super) const EXIT_UNFIT: u8 = 3;

/// Runs `work` on a runtime of this one thread, which lives as long as the process: the kernel kills the children that it
/// has started when it ends.
pub(super) fn run_here<E: From<anyhow::Error>>(work: impl Future<Output = Result<(), E>>) -> Result<(), E> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(work)
}

/// Prints an error with its causes; exit code 2 is for what the user can mend.
pub(super) fn refuse(error: &(dyn std::error::Error + 'static)) -> ExitCode {
    eprintln!("error: {}", Chain(error));
    ExitCode::from(2)
}

/// Prints the result; a reader that is gone makes it a failure.
pub(super) fn say(text: &str, code: ExitCode) -> ExitCode {
    match writeln!(std::io::stdout(), "{text}") {
        Ok(()) => code,
        Err(_closed) => ExitCode::FAILURE,
    }
}
