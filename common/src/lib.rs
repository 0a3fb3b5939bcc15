//! What the coordinator and the workers share: identifiers, media time, wire types, the NATS topology, the
//! blob store, and (behind the `media` feature) everything that uses FFmpeg.
//!
//! This crate does not depend on candle. Without features it is small enough for the engine, which links
//! neither FFmpeg nor NATS.

#![warn(missing_docs)]

pub mod affine;
pub mod align;
pub mod audio;
#[cfg(feature = "farm")]
pub mod awake;
#[cfg(feature = "farm")]
pub mod backoff;
#[cfg(feature = "farm")]
pub mod blob;
pub mod child;
pub mod clock;
pub mod console;
pub mod digest;
pub mod disk;
pub mod error;
pub mod frame;
pub mod host;
pub mod ids;
pub mod limits;
pub mod lip_sync;
#[cfg(feature = "media")]
pub mod media;
pub mod memory_estimate;
#[cfg(feature = "farm")]
pub mod nats;
pub mod numeric_kind;
pub mod queues;
#[cfg(feature = "farm")]
pub mod shutdown;
pub mod simulated_device;
#[cfg(feature = "farm")]
pub mod suspend;
pub mod tags;
pub mod telemetry;
mod text;
pub mod time;
#[cfg(feature = "farm")]
pub mod waiting;
pub mod wire;

pub use text::InvalidText;
