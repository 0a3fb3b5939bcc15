//! Why a standing coordinator cannot begin, or has ended.

use latentfarm_common::blob::BlobError;
use latentfarm_common::error::FileError;
use latentfarm_common::nats::StreamError;
use latentfarm_common::nats::connect::ConnectError;
use latentfarm_common::nats::lease::LeaseError;

use super::records::RecordError;
use crate::dispatch::DispatchError;

/// Why the coordinator cannot begin, or has ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Store(#[from] BlobError),
    #[error(transparent)]
    File(#[from] FileError),
    #[error("cannot prepare the farm's streams")]
    Streams(#[source] StreamError),
    #[error("cannot become the coordinator")]
    Lease(#[source] LeaseError),
    #[error(transparent)]
    Records(#[from] RecordError),
    #[error("cannot listen to the operators' requests")]
    Requests(#[source] async_nats::SubscribeError),
    #[error(transparent)]
    Dispatch(#[from] DispatchError),
}
