//! The ways in which a subcommand ends, with its exit codes and its last output, and the runtime of the
//! asynchronous ones.

use std::io;
use std::process::ExitCode;

use anyhow::Context as _;
use latentfarm_common::console::{print_line, tell};
use latentfarm_common::error::{Chain, one_line};

/// Exit code of a machine that cannot do the work: starting the worker again would not help.
pub(super) const EXIT_CANNOT_WORK: u8 = 3;

/// Runs `work` on a runtime of this one thread, which lives as long as the process. The kernel kills a child
/// process when the thread that started it ends.
pub(super) fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(work)
}

/// Logs an error with its causes on one line and ends with `code`.
pub(super) fn failed(error: &(dyn std::error::Error + 'static), code: u8) -> ExitCode {
    tracing::error!("{}", one_line(error));
    ExitCode::from(code)
}

/// Prints an error with its causes and ends with code 2, which means that the user can put it right.
pub(super) fn usage_error(error: &(dyn std::error::Error + 'static)) -> ExitCode {
    tell(format_args!("error: {}", Chain(error)));
    ExitCode::from(2)
}

/// Prints the result and ends with `code`, or with failure if it cannot be written. A reader that has closed the
/// pipe, such as `head`, has read what it wanted.
pub(super) fn print(text: &str, code: ExitCode) -> ExitCode {
    match print_line(text.trim_end()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            tell(format_args!("error: cannot write to standard output: {error}"));
            ExitCode::FAILURE
        }
        _ => code,
    }
}
