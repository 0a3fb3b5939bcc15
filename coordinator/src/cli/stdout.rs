//! Standard output, on which the subcommands print their results.

use std::fmt::Display;
use std::io;

use anyhow::Context as _;
use latentfarm_common::console::print_line;

use super::exit::CommandError;

/// Prints a result that is all that the subcommand makes, so that it fails if nobody can read the result. A
/// reader that has closed the pipe, such as `head`, has read what it wanted, which is no failure.
pub(super) fn print_result(text: impl Display) -> Result<(), CommandError> {
    match print_line(text) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Ok(Err(error).context("cannot write to standard output")?)
        }
        _ => Ok(()),
    }
}
