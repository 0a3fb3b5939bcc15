//! The errors that end a job's dispatch.

use std::error::Error;

use latentfarm_common::blob::BlobError;
use latentfarm_common::nats::lease::LeaseError;
use latentfarm_common::nats::tasks::TaskError;

use super::task_inputs::BadTimeline;
use crate::job::manifest::ManifestError;
use crate::plan::split::InvalidChunkFrames;

type BoxError = Box<dyn Error + Send + Sync>;

/// Why a job could not be dispatched to its end. The records of finished chunks stay in the done log.
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
    #[error(
        "another coordinator has taken this farm's lease; finished chunks are kept: when its job has ended, give the same \
         command again"
    )]
    LeaseLost,
    #[error("the farm is at work on this job already")]
    Admitted,
    #[error("cannot use the task queue")]
    Tasks(#[source] TaskError),
    #[error("cannot store the input of a chunk")]
    Store(#[source] Box<BlobError>),
    /// Any other action that failed and ends the job.
    #[error("cannot {action}")]
    Other {
        action: &'static str,
        #[source]
        source: BoxError,
    },
}

impl DispatchError {
    /// Returns a function for `map_err` that names the action which failed.
    pub(super) fn at<E: Into<BoxError>>(action: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::Other {
            action,
            source: source.into(),
        }
    }

    /// Whether the job itself is wrong, so that dispatching it again cannot help.
    pub fn is_about_job(&self) -> bool {
        match self {
            Self::Manifest(_) | Self::Timeline(_) | Self::ChunkFrames(_) => true,
            Self::Lease(_)
            | Self::LeaseLost
            | Self::Admitted
            | Self::Tasks(_)
            | Self::Store(_)
            | Self::Other { .. } => false,
        }
    }

    /// Whether publishing again may help, because the farm does not accept tasks, or the store inputs, for a
    /// moment.
    pub(super) fn is_transient(&self) -> bool {
        let is_final =
            |error: &TaskError| matches!(error, TaskError::Encode { .. } | TaskError::TooLarge { .. });
        matches!(self, Self::Store(_)) || matches!(self, Self::Tasks(error) if !is_final(error))
    }
}
