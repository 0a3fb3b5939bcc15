//! Shows an error with its causes, once: at the top of a process, or in the log.
//! It also holds the error of a file that could not be used.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// An operation on a file or folder failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} `{}`", path.display())]
pub struct FileError {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl FileError {
    /// Returns a function for `map_err` that adds the operation and the path to an I/O error.
    pub fn at(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self { action, path, source }
    }
}

/// Turns the error of a removal into a success if there was nothing to remove.
pub fn ignore_not_found(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Displays an error followed by each of its causes on an indented line of its own.
pub struct Chain<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&joined(self.0, "\n  because: "))
    }
}

/// Returns an error and its causes on one line (`a: b: c`), for messages and log fields.
pub fn one_line(error: &(dyn Error + 'static)) -> String {
    joined(error, ": ")
}

fn joined(error: &(dyn Error + 'static), separator: &str) -> String {
    let chain = std::iter::successors(Some(error), |&error| error.source());
    chain.map(ToString::to_string).collect::<Vec<_>>().join(separator)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot render chunk 3")]
    struct Outer(#[source] std::num::ParseIntError);

    #[test]
    fn causes_follow_the_error() {
        let error = Outer("x".parse::<u8>().unwrap_err());
        assert_eq!(
            Chain(&error).to_string(),
            "cannot render chunk 3\n  because: invalid digit found in string"
        );
        assert_eq!(
            one_line(&error),
            "cannot render chunk 3: invalid digit found in string"
        );
    }
}
