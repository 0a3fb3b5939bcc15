//! Faces: found and followed in frames, cut out for the model, and pasted back.
//!
//! | module | what it does |
//! |---|---|
//! | `tflite`, `network`, `kernels` | the two networks' original weight files, run on one CPU thread |
//! | `blazeface`, `mesh` | detection, then 468 points of each face |
//! | `analyze`, `cut` | one unit of the source timeline to observations |
//! | `colour` | 4:2:0 pictures to RGB and back |
//! | `warp`, `resize` | the aligned crop that the model sees |
//! | `mask`, `restore` | the crop's way back into the frame |
//!
//! Everything here gives the same bits for any number of threads.

mod analyze;
mod blazeface;
pub mod colour;
mod cut;
mod error;
mod geometry;
mod kernels;
pub mod mask;
mod mesh;
mod network;
pub mod resize;
pub mod restore;
mod sample;
mod tflite;
pub mod warp;

pub use analyze::{FaceAnalyzer, UNIT_FRAMES};
pub use error::FaceError;
pub use latentfarm_common::align;
pub use mask::Area;
pub use restore::paste;
pub use tflite::TfliteError;
pub use warp::crop;

#[cfg(test)]
mod tests;
