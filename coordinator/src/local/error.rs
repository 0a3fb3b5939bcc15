//! Why a farm cannot be used.

use latentfarm_common::blob::BlobError;
use latentfarm_common::error::FileError;
use latentfarm_common::nats::connect::ConnectError;
use latentfarm_common::nats::server::ServerError;
use latentfarm_common::nats::topology::TopologyError;

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
    File(#[from] FileError),
    #[error("cannot prepare the farm's streams")]
    Streams(#[source] TopologyError),
    #[error("the private nats-server is lost: {why}")]
    ServerLost { why: String },
    #[error("no worker is left to render the job")]
    NoWorkers,
}
