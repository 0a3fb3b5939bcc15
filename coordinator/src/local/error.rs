//! Why a farm cannot be used.

use std::io;
use std::path::PathBuf;

use latentfarm_common::blob::BlobError;
use latentfarm_common::nats::connect::ConnectError;
use latentfarm_common::nats::server::ServerError;
use latentfarm_common::nats::topology::TopologyError;

use super::watch_file::WatchFileError;

/// Why a farm cannot be used, or cannot be used any longer.
#[derive(Debug, thiserror::Error)]
pub enum FarmError {
    #[error("cannot start the private nats-server")]
    Server(#[source] ServerError),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Store(#[from] BlobError),
    #[error(transparent)]
    WatchFile(#[from] WatchFileError),
    #[error("cannot prepare the farm's streams")]
    Streams(#[source] TopologyError),
    #[error("cannot resolve `{}`", path.display())]
    Resolve {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the private nats-server is lost: {why}")]
    ServerLost { why: String },
    #[error("no worker is left to render the job")]
    NoWorkers,
}
