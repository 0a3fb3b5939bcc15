//! Image autoencoder of Stable Diffusion, one picture at a time or a few.
//!
//! | tensor    | shape                  | meaning                                                           |
//! |-----------|------------------------|-------------------------------------------------------------------|
//! | `pixels`  | `(images, 3, h, w)`    | RGB, -1..1                                                        |
//! | `moments` | `(images, 8, h/8, w/8)`| mean 4, log-variance 4                                            |
//! | `latents` | `(images, 4, h/8, w/8)`| a draw from the moments, times [`SCALING_FACTOR`]                 |

mod blocks;
mod decoder;
mod encoder;

use candle_core::{Result, Tensor};

use self::decoder::Decoder;
use self::encoder::Encoder;
use super::config::VaeConfig;
use super::nn::Conv2d;
use super::trace::Trace;
use super::weights::Keys;

/// Latents are stored times this; set by the pipeline, not in the published configuration.
pub const SCALING_FACTOR: f64 = 0.182_15;

/// The image autoencoder.
pub struct AutoencoderKl {
    encoder: Encoder,
    quant_conv: Conv2d,
    post_quant_conv: Conv2d,
    decoder: Decoder,
}

/// The Gaussian that the encoder gives for every latent value.
pub struct Moments {
    /// `(images, 4, h/8, w/8)`.
    pub mean: Tensor,
    /// Like `mean`, within -30..=20.
    pub log_variance: Tensor,
}

impl Moments {
    fn from_tensor(moments: &Tensor) -> Result<Self> {
        let halves = moments.chunk(2, 1)?;
        Ok(Self {
            mean: halves[0].contiguous()?,
            log_variance: halves[1].clamp(-30.0, 20.0)?,
        })
    }

    /// Standard deviation of every value.
    pub fn deviation(&self) -> Result<Tensor> {
        (&self.log_variance * 0.5)?.exp()
    }

    /// The draw that standard normal `noise` of the same shape gives, not yet scaled.
    pub fn sample(&self, noise: &Tensor) -> Result<Tensor> {
        &self.mean + (self.deviation()? * noise)?
    }
}

impl AutoencoderKl {
    pub(super) fn load(keys: &Keys, config: &VaeConfig) -> Result<Self> {
        let latent = config.latent_channels;
        Ok(Self {
            encoder: Encoder::load(&keys.pp("encoder"), config)?,
            quant_conv: Conv2d::load(&keys.pp("quant_conv"), 2 * latent, 2 * latent, 1, 1, 0)?,
            post_quant_conv: Conv2d::load(&keys.pp("post_quant_conv"), latent, latent, 1, 1, 0)?,
            decoder: Decoder::load(&keys.pp("decoder"), config)?,
        })
    }

    /// The encoder's raw output: `(images, 8, h/8, w/8)`, the log-variance not clamped.
    pub fn raw_moments(&self, pixels: &Tensor, trace: &Trace) -> Result<Tensor> {
        let moments = self.quant_conv.forward(&self.encoder.forward(pixels, trace)?)?;
        trace.put("quant_conv", "", &moments);
        Ok(moments)
    }

    pub fn encode(&self, pixels: &Tensor) -> Result<Moments> {
        Moments::from_tensor(&self.raw_moments(pixels, &Trace::off())?)
    }

    /// Pixels for latents that are already divided by [`SCALING_FACTOR`]; not clamped.
    pub fn decode(&self, latents: &Tensor, trace: &Trace) -> Result<Tensor> {
        let hidden = self.post_quant_conv.forward(latents)?;
        trace.put("post_quant_conv", "", &hidden);
        self.decoder.forward(&hidden, trace)
    }
}
