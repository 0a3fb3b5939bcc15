//! Errors of a server and its files.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use crate::error::FileError;

/// Why a server did not start, or its configuration was not written.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// An operation on a file or folder failed.
    #[error(transparent)]
    Files(#[from] FileError),
    /// Another server holds the lock of the folder.
    #[error("another farm is running in `{}`", dir.display())]
    Locked {
        /// The folder of the server's files.
        dir: PathBuf,
    },
    /// A new key cannot be made.
    #[error("cannot make a key")]
    Key(#[source] nkeys::error::Error),
    /// The certificates of the server cannot be made.
    #[error("cannot make the server's certificates")]
    Certificate(#[source] rcgen::Error),
    /// A key file has another content.
    #[error("`{}` does not hold the nkey seed of a user", path.display())]
    BadKey {
        /// Path of the key file.
        path: PathBuf,
        /// The error of the operating system or the key library.
        source: nkeys::error::Error,
    },
    /// The process cannot be started.
    #[error("cannot start `{}`", path.display())]
    Spawn {
        /// Path of the nats-server executable.
        path: PathBuf,
        /// The error of the operating system or the key library.
        source: io::Error,
    },
    /// The server listens, and this machine cannot reach itself.
    #[error(
        "this machine has no working loopback interface, over which the parts of a farm on one machine talk: \
         `ip link set lo up` turns it on"
    )]
    NoLoopback(#[source] io::Error),
    /// The process ended before it was ready.
    #[error("nats-server ended at once ({status}): {output}")]
    Ended {
        /// Exit status of the process.
        status: ExitStatus,
        /// The last lines of its output and its log.
        output: String,
    },
    /// The process did not listen in time.
    #[error("nats-server was not ready after {} s: {output}", limit.as_secs())]
    NotReady {
        /// The time limit that has passed.
        limit: Duration,
        /// The last lines of its output and its log.
        output: String,
    },
}

impl ServerError {
    /// Returns a function for `map_err` that adds the operation and the path to an I/O error.
    pub(super) fn files<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Self + 'a {
        move |source| FileError::at(action, path)(source).into()
    }
}
