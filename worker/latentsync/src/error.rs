//! What can go wrong while the model runs.

use candle_core::DType;

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
    /// Numbers that no picture can be made of. What `place` names is lost, nothing else.
    #[error("{stage} of {place} gave values that are not finite in {}: {}", .dtype.as_str(), advice(*.dtype))]
    NotFinite {
        stage: &'static str,
        place: String,
        dtype: DType,
    },
    #[error("features of audio window {window} are not at hand")]
    AudioMissing { window: u32 },
    #[error("bad request: {0}")]
    BadRequest(String),
    #[error("stopped on request")]
    Stopped,
}

fn advice(dtype: DType) -> &'static str {
    match dtype {
        DType::F16 => "the engine's `--dtype bf16` and `--dtype f32` reach further",
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
