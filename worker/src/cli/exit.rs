//! How a command ends: what it prints last, and its exit code.

use std::io::Write as _;
use std::process::ExitCode;

use latentfarm_common::error::Chain;

/// Exit code of a machine that cannot do the work: starting the worker again would not help.
pub(super) const EXIT_UNFIT: u8 = 3;

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
