//! The worker: a supervisor that talks to NATS, and two kinds of children that it feeds over pipes.
//!
//! | process | modules | links |
//! |---|---|---|
//! | supervisor (`latentfarm-worker run`) | `supervise`, `consume`, `memory` | NATS, NVML |
//! | media child (`latentfarm-worker media`) | `media`, `face` | FFmpeg, candle on the CPU |
//! | `latentfarm-engine` | `engine`, `latentsync` | candle alone, CPU or CUDA |
//!
//! `latentsync` and `face` know no NATS and no FFmpeg.

pub mod bench;
#[cfg(feature = "supervisor")]
pub mod cli;
#[cfg(feature = "supervisor")]
pub mod consume;
pub mod engine;
pub mod face;
pub mod latentsync;
#[cfg(feature = "supervisor")]
pub mod media;
pub mod memory;
mod numeric;
#[cfg(feature = "supervisor")]
pub mod supervise;

pub use numeric::numeric_kind;
