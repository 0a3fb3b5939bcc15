//! Errors of a server and its files.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use crate::error::FileError;
use crate::ids::WorkerId;

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
    /// The file with the time at which a key expires has another content.
    #[error("`{}` does not hold a time in seconds since the Unix epoch: revoke that machine, and invite it again", path.display())]
    BadExpiry {
        /// Path of the file.
        path: PathBuf,
    },
    /// A folder has no server whose keys can be changed.
    #[error(
        "`{}` has no server of a farm: name the folder of `latentfarm serve`, or of `latentfarm nats-config`, with --dir",
        dir.display()
    )]
    NoServer {
        /// The folder that was named.
        dir: PathBuf,
    },
    /// The name leaves no room for those of its devices.
    #[error(
        "the name `{0}` is too long for a machine: names of workers, such as `{0}-g15`, have 40 characters at most"
    )]
    LongName(WorkerId),
    /// The machine has been invited already.
    #[error(
        "`{0}` has a key already: `latentfarm revoke {0}` shuts it out, and then it can be invited with a new one; or \
         choose another name"
    )]
    HasKey(WorkerId),
    /// The name is that of a worker of another machine.
    #[error("`{machine}` and the machine `{other}` would have workers of one name: choose another name")]
    NameOfOther {
        /// The name of the machine that is invited.
        machine: WorkerId,
        /// The name of one that has a key.
        other: WorkerId,
    },
    /// The machine has no key.
    #[error(
        "no machine `{machine}` has a key of this farm; those that have: {}",
        listed(others)
    )]
    NoKey {
        /// The name of the machine.
        machine: WorkerId,
        /// The machines that have a key.
        others: Vec<WorkerId>,
    },
    /// The server cannot be asked to read its keys again.
    #[error(
        "cannot ask the nats-server (process {pid}) to read its keys again: run `kill -HUP {pid}` as its user, or start \
         it again"
    )]
    Signal {
        /// The process id.
        pid: i32,
        /// The error of the operating system.
        source: io::Error,
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

/// Lists names for a message.
fn listed(names: &[WorkerId]) -> String {
    if names.is_empty() {
        return "none".to_owned();
    }
    let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    names.join(", ")
}

impl ServerError {
    /// Returns a function for `map_err` that adds the operation and the path to an I/O error.
    pub(super) fn files<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Self + 'a {
        move |source| FileError::at(action, path)(source).into()
    }
}
