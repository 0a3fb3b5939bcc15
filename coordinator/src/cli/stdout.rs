//! Standard output, on which all subcommands print their results.

use std::fmt::Display;
use std::io::{self, Write as _};

/// Prints a line. That the reader has closed the pipe is no error: a job goes on without its reader.
pub(super) fn print_line(line: impl Display) {
    let _closed = writeln!(io::stdout(), "{line}");
}
