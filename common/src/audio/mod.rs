//! Speech as the model takes it: 16 kHz mono PCM, its log-mel spectrogram ([`mel`]), the grid of windows in
//! which the audio encoder takes it ([`windows`]), and the stretches in which nobody speaks ([`silence`]).
//!
//! The coordinator calls these while it reads a job's audio and cuts the job into chunks; the engine calls
//! them to compute features. Both get the same numbers, because all of it is a pure function of the track.

pub mod mel;
pub mod silence;
pub mod windows;

/// Sample rate of the PCM that the model takes.
pub const SAMPLE_RATE_HZ: u32 = 16_000;
