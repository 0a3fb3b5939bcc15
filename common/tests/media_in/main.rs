//! Tests of reading input media, on clips that the `ffmpeg` command makes: every frame is read once, at the
//! source's PTS, with the pixels that decoding the whole file gives.
#![cfg(feature = "media")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod clicks;
mod damage;
mod refusals;
mod shapes;
mod sound;
mod support;
mod video;
