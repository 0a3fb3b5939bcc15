//! Why a standing coordinator cannot begin, or has ended.

use latentfarm_common::error::FileError;
use latentfarm_common::nats::lease::LeaseError;
use latentfarm_common::nats::server::ServerError;

use super::records::RecordError;
use crate::dispatch::{DispatchError, FarmError};

/// Why the coordinator cannot begin, or has ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("cannot start the farm's nats-server")]
    Server(#[source] ServerError),
    #[error("the farm's nats-server is lost: {why}")]
    ServerLost { why: String },
    #[error(transparent)]
    Farm(#[from] FarmError),
    #[error(transparent)]
    File(#[from] FileError),
    #[error("cannot become the coordinator")]
    Lease(#[source] LeaseError),
    #[error(transparent)]
    Records(#[from] RecordError),
    #[error("cannot listen to the operators' requests")]
    Requests(#[source] async_nats::SubscribeError),
    #[error(transparent)]
    Dispatch(#[from] DispatchError),
}
