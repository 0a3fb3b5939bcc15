//! Finds and tracks faces in frames, crops them for the model, and pastes rendered faces back. The media
//! child calls it.
//!
//! | module | what it does |
//! |---|---|
//! | `tflite`, `network`, `kernels` | read the original weight files of the two networks and run them on one CPU thread |
//! | `blazeface`, `mesh` | detect faces, then find 468 points of each |
//! | `analyze`, `shot_boundary` | turn one unit of 16 source frames into observations |
//! | `lip_meter` | measures how far mouths are open, where the alignment is known |
//! | `colour` | converts 4:2:0 pictures to RGB and back |
//! | `warp`, `resize` | make the aligned crop that the model is given |
//! | `mask`, `paste` | put a rendered crop back into its frame |
//!
//! Everything here gives the same bits for any number of threads.

mod analyze;
mod blazeface;
pub mod colour;
mod error;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod geometry;
mod kernels;
mod lip_meter;
pub mod mask;
mod mesh;
mod network;
mod paste;
pub mod resize;
mod sample;
mod shot_boundary;
mod tflite;
pub mod warp;

pub use analyze::{FaceAnalyzer, UNIT_FRAMES};
pub use error::FaceError;
pub use latentfarm_common::align;
pub use lip_meter::LipMeter;
pub use mask::PixelRect;
pub use paste::paste;
pub use tflite::TfliteError;
pub use warp::crop;

#[cfg(test)]
mod tests;
