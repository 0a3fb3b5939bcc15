//! Why a job could not be dispatched.

use latentfarm_common::blob::BlobError;
use latentfarm_common::nats::direct::DirectError;
use latentfarm_common::nats::done::DoneError;
use latentfarm_common::nats::events::EventError;
use latentfarm_common::nats::lease::LeaseError;
use latentfarm_common::nats::tasks::TaskError;
use latentfarm_common::nats::topology::TopologyError;
use latentfarm_common::wire::WireError;

use super::inputs::BadTimeline;
use crate::job::store::ManifestError;
use crate::plan::split::InvalidChunkFrames;

/// Why a job could not be dispatched. What was finished stays in the done log.
#[derive(Debug, thiserror::Error)]
pub enum DispatchError {
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error(transparent)]
    Timeline(#[from] BadTimeline),
    #[error(transparent)]
    ChunkFrames(#[from] InvalidChunkFrames),
    #[error("cannot prepare the farm's streams")]
    Topology(#[source] TopologyError),
    #[error("cannot become the coordinator")]
    Lease(#[source] LeaseError),
    #[error("another coordinator took over, or this one could not renew its lease: stopped at once")]
    LeaseLost,
    #[error("cannot follow the farm")]
    Follow(#[source] EventError),
    #[error("cannot follow the workers' heartbeats")]
    Heartbeats(#[source] async_nats::SubscribeError),
    #[error("cannot use the task queue")]
    Tasks(#[source] TaskError),
    #[error("cannot read the tasks of an earlier coordinator")]
    Leftovers(#[source] DirectError),
    #[error("cannot use the done log")]
    DoneLog(#[source] DoneError),
    #[error("cannot store the input of a chunk")]
    Store(#[source] Box<BlobError>),
    #[error("cannot encode the input of a chunk")]
    Encode(#[source] WireError),
}

impl DispatchError {
    /// Whether publishing again may help: the farm does not take tasks, or the store their inputs, for a moment.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Self::Tasks(error) => !matches!(error, TaskError::Encode { .. } | TaskError::TooLarge { .. }),
            Self::Store(_) => true,
            Self::Manifest(_)
            | Self::Timeline(_)
            | Self::ChunkFrames(_)
            | Self::Topology(_)
            | Self::Lease(_)
            | Self::LeaseLost
            | Self::Follow(_)
            | Self::Heartbeats(_)
            | Self::Leftovers(_)
            | Self::DoneLog(_)
            | Self::Encode(_) => false,
        }
    }
}
