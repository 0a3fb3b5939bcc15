//! Lines on standard error and results on standard output, of every program.
//!
//! `eprintln!` panics if nobody reads standard error any more or if its disk is full, and a render of hours would
//! end with it: so the lint `print_stderr` forbids it, and everything is printed here.

use std::fmt::Display;
use std::io::{self, Write as _};

/// Prints a line for people on standard error. If it cannot be written, it is lost: the work goes on.
pub fn tell(line: impl Display) {
    let _unread = io::stderr().write_all(format!("{line}\n").as_bytes());
}

/// Prints a line of a command's result on standard output.
///
/// # Errors
/// If standard output is closed, or the disk that it is redirected to is full. A command whose only product is
/// this output has failed then; a command with another product goes on.
pub fn print_line(line: impl Display) -> io::Result<()> {
    let mut out = io::stdout();
    out.write_all(format!("{line}\n").as_bytes())?;
    out.flush()
}
