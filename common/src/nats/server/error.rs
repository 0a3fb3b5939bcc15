//! What goes wrong with a server and its files.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use crate::error::FileError;

/// Why a server did not start, or its configuration was not written.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error(transparent)]
    Files(#[from] FileError),
    #[error("another farm is running in `{}`", dir.display())]
    Locked { dir: PathBuf },
    #[error("cannot make a key")]
    Key(#[source] nkeys::error::Error),
    #[error("`{}` does not hold the nkey seed of a user", path.display())]
    BadKey {
        path: PathBuf,
        #[source]
        source: nkeys::error::Error,
    },
    #[error("cannot start `{}`", path.display())]
    Spawn {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("nats-server ended at once ({status}): {output}")]
    Ended { status: ExitStatus, output: String },
    #[error("nats-server was not ready after {} s: {output}", limit.as_secs())]
    NotReady { limit: Duration, output: String },
}

impl ServerError {
    /// Names what was done to which file.
    pub(super) fn files<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Self + 'a {
        move |source| FileError::at(action, path)(source).into()
    }
}
