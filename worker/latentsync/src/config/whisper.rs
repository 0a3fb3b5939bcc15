//! The dimensions of the audio encoder.

use serde::Deserialize;

use super::{ConfigError, WIDEST, check};

/// The dimensions of the Whisper encoder: the `dims` of its checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct WhisperDims {
    /// The mel bands of the spectrogram: 80.
    pub n_mels: usize,
    /// The positions of the encoder, which are half of the mel frames of an audio window: 1500.
    pub n_audio_ctx: usize,
    /// The width of the states.
    pub n_audio_state: usize,
    /// The attention heads of a block.
    pub n_audio_head: usize,
    /// The blocks of the encoder.
    pub n_audio_layer: usize,
}

/// The most blocks of the encoder; the largest published one has 32.
const MOST_BLOCKS: usize = 64;

impl WhisperDims {
    /// Parses a configuration and checks that it is supported.
    ///
    /// # Errors
    /// [`ConfigError`] names the first field that is not supported.
    pub fn from_json(text: &str) -> Result<Self, ConfigError> {
        let dims: Self = serde_json::from_str(text).map_err(ConfigError::Json)?;
        dims.validate()?;
        Ok(dims)
    }

    /// Checks that every field has a value that is implemented.
    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        check(
            self.n_mels == 80,
            "n_mels",
            self.n_mels,
            "the spectrogram has 80 bands",
        )?;
        check(
            self.n_audio_ctx == 1500,
            "n_audio_ctx",
            self.n_audio_ctx,
            "an audio window has 1500 rows",
        )?;
        check(
            (1..=MOST_BLOCKS).contains(&self.n_audio_layer),
            "n_audio_layer",
            self.n_audio_layer,
            "1 to 64 are supported",
        )?;
        check(
            (1..=WIDEST).contains(&self.n_audio_state),
            "n_audio_state",
            self.n_audio_state,
            "1 to 8192 are supported",
        )?;
        check(
            self.n_audio_head > 0 && self.n_audio_state.is_multiple_of(self.n_audio_head),
            "n_audio_head",
            self.n_audio_head,
            "it must divide n_audio_state",
        )
    }

    /// Returns the number of tokens of one feature row: the state of every block, and the embedding.
    pub fn tokens_per_row(&self) -> usize {
        self.n_audio_layer + 1
    }
}
