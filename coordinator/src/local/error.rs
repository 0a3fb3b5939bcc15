//! The error of a farm that cannot be reached, started or kept running.

use latentfarm_common::blob::BlobError;
use latentfarm_common::error::FileError;
use latentfarm_common::nats::StreamError;
use latentfarm_common::nats::connect::ConnectError;
use latentfarm_common::nats::server::ServerError;

/// The reason for which a render cannot use its farm, or can no longer use it.
#[derive(Debug, thiserror::Error)]
pub enum FarmError {
    #[error("cannot start the private nats-server")]
    Server(#[source] ServerError),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Store(#[from] BlobError),
    #[error(transparent)]
    File(#[from] FileError),
    #[error("cannot prepare the farm's streams")]
    Streams(#[source] StreamError),
    /// The least limits of the streams exceed what the server allows, so that they cannot be created.
    #[error(
        "the farm's streams need at least {} MiB together, and the NATS server allows {}: raise the limit (`max_file` in \
         its configuration, or that of the account)",
        need_bytes >> 20, described(*limit_bytes)
    )]
    Storage {
        need_bytes: u64,
        /// The limit of the account, if it has one of its own.
        limit_bytes: Option<u64>,
        source: StreamError,
    },
    #[error("the private nats-server is lost: {why}")]
    ServerLost { why: String },
    #[error(
        "no worker is left to render the job: every worker of this machine ended too often or cannot render"
    )]
    NoWorkers,
}

fn described(limit_bytes: Option<u64>) -> String {
    limit_bytes.map_or_else(|| "less".to_owned(), |bytes| format!("{} MiB", bytes >> 20))
}
