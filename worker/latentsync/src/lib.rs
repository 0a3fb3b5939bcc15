//! LatentSync, the diffusion model that renders mouths to fit speech, in candle. The engine calls it for each
//! window of a chunk; `latentfarm-worker weights` calls [`checkpoint`] and [`cost`] alone.
//!
//! ```text
//! 16 kHz PCM ─ log-mel ─ Whisper ─ 10 rows a frame ──────────────┐
//! 16 face crops ─┬─ mask mouth ─ VAE ─ masked latents ─┐         │
//!                └───────────────VAE ─ reference       ├─ UNet, DDIM steps ─ VAE ─ paste mouth ─ 16 crops
//!            keyed noise, one frame's for all ─────────┘
//! ```
//!
//! This crate uses neither NATS nor FFmpeg. The faces of a window of 16 frames on the global output grid are
//! a function of the crops, the audio rows, the weights, the steps, the guidance scale and the seed, and of
//! nothing else: neither of what ran before nor of the number of threads.
//!
//! # One window, from Rust
//!
//! This is a short form of `examples/render_window.rs`, which also runs with tiny random weights.
//!
//! ```no_run
//! use candle_core::{DType, Device};
//! use latentfarm_common::wire::engine::{AudioRequest, WindowRequest};
//! use latentsync::{Checkpoint, ExecutionOptions, LatentSync, Run, gather_rows};
//!
//! /// 16 rendered faces, laid out like `window.faces`.
//! fn render(audio: &AudioRequest, window: &WindowRequest) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
//!     let checkpoint = Checkpoint::open("weights".as_ref())?;
//!     let options = ExecutionOptions::default();
//!     let model = LatentSync::load(&checkpoint, &Device::Cpu, DType::F32, options)?;
//!     let run = Run::new(options);
//!     let features = model.encode_audio(&run, audio)?;
//!     let rows = gather_rows(window, 16, |_window| Some(&features))?;
//!     let (faces, _timings) = model.render_window(&run, window, &rows, &mut |_stage| Ok(()))?;
//!     Ok(faces)
//! }
//! ```

#![warn(missing_docs)]

pub mod checkpoint;
pub mod config;
pub mod cost;
pub mod ddim;
pub mod denoise;
mod error;
mod faces;
mod finite;
mod hooks;
mod kernels;
pub mod layer_check;
mod layers;
pub mod mask;
pub mod noise;
mod options;
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
pub use faces::Faces;
pub use hooks::{Hooks, Op};
pub use kernels::cuda::{
    CudaBuild, KernelCheck, check_kernels, cuda_build, cuda_dtypes, cuda_kernels_enabled, relative_distance,
};
pub use options::ExecutionOptions;
pub use pipeline::{LatentSync, RenderedWindow};
pub use run::Run;
pub use tensors::WeightsError;
pub use whisper::{AudioFeatures, gather_rows, row_of_track};
