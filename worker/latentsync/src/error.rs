//! The errors of a running model; the engine decides by them whether a task is tried again.

use candle_core::DType;

/// The `stage` callback returns this to stop the run: the job was cancelled, or the pipe to the supervisor is
/// closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped;

/// An error of a running model.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A tensor operation failed, and the source shows whether memory was short.
    #[error("cannot {what}")]
    Compute {
        /// What was attempted, as the rest of a sentence that begins with "cannot".
        what: &'static str,
        /// The error of the tensor operation.
        #[source]
        source: candle_core::Error,
    },
    /// Values are infinite or NaN. Only the frame or the window that `place` names is lost.
    #[error("{stage} of {place} gave values that are not finite in {}: {}", .dtype.as_str(), advice(*.dtype))]
    NotFinite {
        /// The stage that computed them, for example "denoising".
        stage: &'static str,
        /// The frame or the step.
        place: String,
        /// The type that the stage computed in.
        dtype: DType,
    },
    /// The caller did not encode an audio window that a frame needs.
    #[error("features of audio window {window} are missing")]
    AudioMissing {
        /// The index of the audio window in the track.
        window: u32,
    },
    /// The request contradicts itself or the model; the text explains how.
    #[error("bad request: {0}")]
    BadRequest(String),
    /// The `stage` callback returned [`Stopped`].
    #[error("stopped on request")]
    Stopped,
}

fn advice(dtype: DType) -> &'static str {
    match dtype {
        DType::F16 => "the engine's `--dtype bf16` and `--dtype f32` have a wider range",
        _ => "the weights are damaged or do not belong together",
    }
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
