//! Speech as the model hears it: 16 kHz mono PCM, its log-mel spectrogram, and the grid of windows in which
//! the audio encoder sees it.

pub mod mel;
pub mod windows;

/// Rate of the PCM that the model hears.
pub const SAMPLE_RATE_HZ: u32 = 16_000;
