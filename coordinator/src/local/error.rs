//! The error of a private farm that cannot be started or kept running.

use latentfarm_common::error::FileError;
use latentfarm_common::nats::server::ServerError;

use crate::dispatch::FarmError;

/// Why a render cannot use its private farm, or can no longer use it.
#[derive(Debug, thiserror::Error)]
pub enum LocalFarmError {
    #[error("cannot start the private nats-server")]
    Server(#[source] ServerError),
    #[error(transparent)]
    Farm(#[from] FarmError),
    #[error(transparent)]
    File(#[from] FileError),
    #[error("the private nats-server is lost: {why}")]
    ServerLost { why: String },
    #[error("no worker of this machine can render the job: {why}")]
    NoWorkers {
        /// Each worker with the reason why it was given up, in one line.
        why: String,
    },
}
