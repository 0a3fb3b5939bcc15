//! LatentSync: the diffusion model that renders mouths to speech, in candle.
//!
//! ```text
//! 16 kHz PCM ─ log-mel ─ Whisper ─ 10 rows a frame ──────────────┐
//! 16 face crops ─┬─ mask mouth ─ VAE ─ masked latents ─┐         │
//!                └───────────────VAE ─ reference       ├─ UNet, DDIM steps ─ VAE ─ paste mouth ─ 16 crops
//!            keyed noise, one frame's for all ─────────┘
//! ```
//!
//! Nothing here knows NATS or FFmpeg. A window of 16 frames on the global output grid is a function of its
//! crops, its audio rows, the weights, the steps, the guidance and the seed, and of nothing else: not of what
//! ran before, nor of the number of threads.

pub mod boundary;
pub mod checkpoint;
pub mod config;
pub mod cost;
pub mod ddim;
pub mod denoise;
mod error;
mod finite;
mod kernels;
mod layers;
mod levers;
pub mod mask;
pub mod noise;
mod pipeline;
pub mod preprocess;
mod run;
pub mod slices;
pub mod tensors;
pub mod trace;
pub mod unet;
pub mod vae;
pub mod whisper;

pub use checkpoint::{Checkpoint, synth};
pub use error::{ModelError, Stopped};
pub use kernels::cuda::{KernelCheck, check_kernels, kernels_serve};
pub use levers::Levers;
pub use pipeline::{Faces, LatentSync, RenderedWindow};
pub use run::Run;
pub use tensors::WeightsError;
pub use whisper::{AudioFeatures, gather_rows, row_of_track};
