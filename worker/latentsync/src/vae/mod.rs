//! The image autoencoder of Stable Diffusion. The pipeline encodes the input faces with it and decodes the
//! rendered ones, one picture at a time.
//!
//! | tensor    | shape                  | meaning                                                           |
//! |-----------|------------------------|-------------------------------------------------------------------|
//! | `pixels`  | `(images, 3, h, w)`    | RGB, -1..1                                                        |
//! | `moments` | `(images, 8, h/8, w/8)`| mean 4, log-variance 4                                            |
//! | `latents` | `(images, 4, h/8, w/8)`| a sample from the moments, times [`SCALING_FACTOR`]               |
//!
//! The inputs may have any type, and the results are `f32` whatever type the network computes in, because the
//! sampling and the scaling must not be rounded to a half type.

mod autoencoder;
mod blocks;
mod decoder;
mod encoder;

pub(crate) use autoencoder::f32_options;
pub use autoencoder::{AutoencoderKl, DiagonalGaussianDistribution, SCALING_FACTOR};
