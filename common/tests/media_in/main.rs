//! The reading side of `media` on clips that the `ffmpeg` command makes: every frame once, at the source's PTS,
//! with the pixels that decoding the file front to back gives.
#![cfg(feature = "media")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod refusals;
mod sound;
mod support;
mod video;
