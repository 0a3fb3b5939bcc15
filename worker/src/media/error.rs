//! The errors that end a request of the media child early.

use latentfarm_common::media::MediaError;
use latentfarm_common::wire::pipe::PipeError;

use latentfarm_face::FaceError;

/// Why a request of the supervisor failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum RequestError {
    #[error(transparent)]
    Media(#[from] MediaError),
    #[error("cannot find faces")]
    Face(#[from] FaceError),
    #[error("the request contradicts itself: {0}")]
    Inconsistent(String),
    /// The supervisor is gone, or its messages cannot be read: no reply is possible.
    #[error("the pipe to the supervisor failed")]
    Pipe(#[from] PipeError),
}
