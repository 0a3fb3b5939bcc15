//! What ends a request of the media child early.

use latentfarm_common::media::MediaError;
use latentfarm_common::wire::pipe::PipeError;

use crate::face::FaceError;

/// Why a request was not carried out.
#[derive(Debug, thiserror::Error)]
pub(super) enum JobError {
    #[error(transparent)]
    Media(#[from] MediaError),
    #[error("cannot find faces")]
    Face(#[from] FaceError),
    #[error("the request does not fit together: {0}")]
    Inconsistent(String),
    /// The supervisor is gone or out of step: nothing can be answered.
    #[error("the pipe to the supervisor failed")]
    Pipe(#[from] PipeError),
}
