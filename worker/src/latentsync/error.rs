//! What can go wrong while the model runs.

/// The `stage` callback's wish to stop: the job was cancelled, or the reader of the pipe is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped;

#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A tensor operation failed, perhaps for lack of memory: the source tells.
    #[error("cannot {what}")]
    Compute {
        what: &'static str,
        #[source]
        source: candle_core::Error,
    },
    #[error("features of audio window {window} are not at hand")]
    AudioMissing { window: u32 },
    #[error("bad request: {0}")]
    BadRequest(String),
    #[error("stopped on request")]
    Stopped,
}

impl ModelError {
    pub(super) fn compute(what: &'static str, source: candle_core::Error) -> Self {
        Self::Compute { what, source }
    }
}

impl From<Stopped> for ModelError {
    fn from(_: Stopped) -> Self {
        Self::Stopped
    }
}
