//! Image autoencoder of Stable Diffusion, one picture at a time or a few.
//!
//! | tensor    | shape                  | meaning                                                           |
//! |-----------|------------------------|-------------------------------------------------------------------|
//! | `pixels`  | `(images, 3, h, w)`    | RGB, -1..1                                                        |
//! | `moments` | `(images, 8, h/8, w/8)`| mean 4, log-variance 4                                            |
//! | `latents` | `(images, 4, h/8, w/8)`| a draw from the moments, times [`SCALING_FACTOR`]                 |
//!
//! Whatever type the networks compute in, tensors are taken in any type and given in `f32`: the draw and the
//! scaling must not be rounded to a half type.

mod autoencoder;
mod blocks;
mod decoder;
mod encoder;

pub use autoencoder::{AutoencoderKl, DiagonalGaussianDistribution, SCALING_FACTOR};
