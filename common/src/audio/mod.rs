//! Speech as the model hears it: 16 kHz mono PCM, its log-mel spectrogram, the grid of windows in which
//! the audio encoder sees it, and where nobody speaks.

pub mod mel;
pub mod silence;
pub mod windows;

/// Rate of the PCM that the model hears.
pub const SAMPLE_RATE_HZ: u32 = 16_000;
