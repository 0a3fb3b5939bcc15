//! Prints an error with its causes, once, at the top of a process; and the error of a file that could not be used.

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
    /// Names the operation and the path of an I/O error, for `map_err`.
    pub fn at(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self { action, path, source }
    }
}

/// Turns the error of a removal into success if there was nothing to remove.
pub fn unless_absent(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Shows an error followed by every cause, each on its own indented line.
pub struct Chain<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, "\n  because: {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

/// The chain on one line, for payloads and log fields: `a: b: c`.
pub fn one_line(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
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
