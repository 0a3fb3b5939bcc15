//! Why a job could not be dispatched.

use std::error::Error;

use latentfarm_common::blob::BlobError;
use latentfarm_common::nats::lease::LeaseError;
use latentfarm_common::nats::tasks::TaskError;

use super::inputs::BadTimeline;
use crate::job::store::ManifestError;
use crate::plan::split::InvalidChunkFrames;

type Source = Box<dyn Error + Send + Sync>;

/// Why a job could not be dispatched. What was finished stays in the done log.
#[derive(Debug, thiserror::Error)]
pub enum DispatchError {
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error(transparent)]
    Timeline(#[from] BadTimeline),
    #[error(transparent)]
    ChunkFrames(#[from] InvalidChunkFrames),
    #[error("cannot become the coordinator")]
    Lease(#[source] LeaseError),
    #[error("another coordinator took over, or this one could not renew its lease: stopped at once")]
    LeaseLost,
    #[error("cannot use the task queue")]
    Tasks(#[source] TaskError),
    #[error("cannot store the input of a chunk")]
    Store(#[source] Box<BlobError>),
    /// Everything else that ends the job in the same way, whatever it was.
    #[error("cannot {action}")]
    Other {
        action: &'static str,
        #[source]
        source: Source,
    },
}

impl DispatchError {
    /// Names what was attempted, for `map_err`.
    pub(super) fn at<E: Into<Source>>(action: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::Other {
            action,
            source: source.into(),
        }
    }

    /// Whether publishing again may help: the farm does not take tasks, or the store their inputs, for a moment.
    pub(super) fn is_passing(&self) -> bool {
        let is_final =
            |error: &TaskError| matches!(error, TaskError::Encode { .. } | TaskError::TooLarge { .. });
        matches!(self, Self::Store(_)) || matches!(self, Self::Tasks(error) if !is_final(error))
    }
}
