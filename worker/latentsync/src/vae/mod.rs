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

mod blocks;
mod decoder;
mod encoder;
mod redo;

use candle_core::{DType, Result, Tensor};

use self::decoder::Decoder;
use self::encoder::Encoder;
use self::redo::Original;
use super::config::VaeConfig;
use super::nn::Conv2d;
use super::trace::Trace;
use super::weights::{Keys, Residence};

/// Latents are stored times this; set by the pipeline, not in the published configuration.
pub const SCALING_FACTOR: f64 = 0.182_15;

/// The image autoencoder.
pub struct AutoencoderKl {
    to_moments: ToMoments,
    to_pixels: ToPixels,
    config: VaeConfig,
    residence: Residence,
    /// The weights as stored, where the networks compute in a half type.
    original: Option<Original>,
}

/// The encoding half.
struct ToMoments {
    encoder: Encoder,
    quant_conv: Conv2d,
    dtype: DType,
}

/// The decoding half.
struct ToPixels {
    post_quant_conv: Conv2d,
    decoder: Decoder,
    dtype: DType,
}

/// The Gaussian that the encoder gives for every latent value, in `f32`.
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
            // Of a single image the first half is contiguous as it is, and would keep the second alive.
            mean: halves[0].force_contiguous()?,
            log_variance: halves[1].clamp(-30.0, 20.0)?,
        })
    }

    /// Standard deviation of every value.
    pub fn deviation(&self) -> Result<Tensor> {
        (&self.log_variance * 0.5)?.exp()
    }

    /// The draw that standard normal `f32` `noise` of the same shape gives, not yet scaled.
    pub fn sample(&self, noise: &Tensor) -> Result<Tensor> {
        &self.mean + (self.deviation()? * noise)?
    }
}

impl ToMoments {
    fn load(keys: &Keys, config: &VaeConfig) -> Result<Self> {
        let both = 2 * config.latent_channels;
        Ok(Self {
            encoder: Encoder::load(&keys.pp("encoder"), config)?,
            quant_conv: Conv2d::load(&keys.pp("quant_conv"), both, both, 1, 1, 0)?,
            dtype: keys.dtype(),
        })
    }

    fn forward(&self, pixels: &Tensor, trace: &Trace) -> Result<Tensor> {
        let hidden = self.encoder.forward(&pixels.to_dtype(self.dtype)?, trace)?;
        let moments = self.quant_conv.forward(&hidden)?;
        trace.put("quant_conv", "", &moments);
        moments.to_dtype(DType::F32)
    }
}

impl ToPixels {
    fn load(keys: &Keys, config: &VaeConfig) -> Result<Self> {
        let latent = config.latent_channels;
        Ok(Self {
            post_quant_conv: Conv2d::load(&keys.pp("post_quant_conv"), latent, latent, 1, 1, 0)?,
            decoder: Decoder::load(&keys.pp("decoder"), config)?,
            dtype: keys.dtype(),
        })
    }

    fn forward(&self, latents: &Tensor, trace: &Trace) -> Result<Tensor> {
        let hidden = self.post_quant_conv.forward(&latents.to_dtype(self.dtype)?)?;
        trace.put("post_quant_conv", "", &hidden);
        self.decoder.forward(&hidden, trace)?.to_dtype(DType::F32)
    }
}

impl AutoencoderKl {
    pub(super) fn load(keys: &Keys, config: &VaeConfig) -> Result<Self> {
        Ok(Self {
            to_moments: ToMoments::load(keys, config)?,
            to_pixels: ToPixels::load(keys, config)?,
            config: config.clone(),
            residence: keys.residence(),
            original: None,
        })
    }

    /// Where its weights are.
    pub(super) fn residence(&self) -> &Residence {
        &self.residence
    }

    /// The encoder's raw output: `(images, 8, h/8, w/8)`, the log-variance not clamped.
    pub fn raw_moments(&self, pixels: &Tensor, trace: &Trace) -> Result<Tensor> {
        self.to_moments.forward(pixels, trace)
    }

    pub fn encode(&self, pixels: &Tensor) -> Result<Moments> {
        Moments::from_tensor(&self.raw_moments(pixels, &Trace::off())?)
    }

    /// Pixels for latents that are already divided by [`SCALING_FACTOR`]; not clamped.
    pub fn decode(&self, latents: &Tensor, trace: &Trace) -> Result<Tensor> {
        self.to_pixels.forward(latents, trace)
    }
}
