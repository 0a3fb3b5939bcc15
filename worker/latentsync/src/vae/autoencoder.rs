//! The image autoencoder. Pictures of which a half type made infinities are made again in `f32`, one at a time.

use candle_core::{DType, Device, Result, Tensor};

use super::decoder::Decoder;
use super::encoder::Encoder;
use crate::config::VaeConfig;
use crate::error::ModelError;
use crate::finite::is_finite;
use crate::layers::Conv2d;
use crate::run::Run;
use crate::tensors::{LoadReport, NetworkWeights, TensorFile, VarBuilder};

/// Latents are stored times this; set by the pipeline, not in the published configuration.
pub const SCALING_FACTOR: f64 = 0.182_15;

/// The image autoencoder.
pub struct AutoencoderKl {
    to_moments: ToMoments,
    to_pixels: ToPixels,
    config: VaeConfig,
    network_weights: NetworkWeights,
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
pub struct DiagonalGaussianDistribution {
    /// `(images, 4, h/8, w/8)`.
    pub mean: Tensor,
    /// Like `mean`, within -30..=20.
    pub log_variance: Tensor,
}

impl DiagonalGaussianDistribution {
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

/// The weight file that the networks were loaded from. It is mapped, so it costs no memory until it is read,
/// and stays what it was if another is put in its place.
struct Original {
    file: TensorFile,
    device: Device,
}

impl ToMoments {
    fn load(vb: &VarBuilder, config: &VaeConfig) -> Result<Self> {
        let both = 2 * config.latent_channels;
        Ok(Self {
            encoder: Encoder::load(&vb.pp("encoder"), config)?,
            quant_conv: Conv2d::load(&vb.pp("quant_conv"), both, both, 1, 1, 0)?,
            dtype: vb.dtype(),
        })
    }

    fn forward(&self, run: &Run, pixels: &Tensor) -> Result<Tensor> {
        let hidden = self.encoder.forward(run, &pixels.to_dtype(self.dtype)?)?;
        let moments = self.quant_conv.forward(run, &hidden)?;
        run.put("quant_conv", "", &moments);
        moments.to_dtype(DType::F32)
    }
}

impl ToPixels {
    fn load(vb: &VarBuilder, config: &VaeConfig) -> Result<Self> {
        let latent = config.latent_channels;
        Ok(Self {
            post_quant_conv: Conv2d::load(&vb.pp("post_quant_conv"), latent, latent, 1, 1, 0)?,
            decoder: Decoder::load(&vb.pp("decoder"), config)?,
            dtype: vb.dtype(),
        })
    }

    fn forward(&self, run: &Run, latents: &Tensor) -> Result<Tensor> {
        let hidden = self
            .post_quant_conv
            .forward(run, &latents.to_dtype(self.dtype)?)?;
        run.put("post_quant_conv", "", &hidden);
        self.decoder.forward(run, &hidden)?.to_dtype(DType::F32)
    }
}

impl AutoencoderKl {
    pub(crate) fn load(vb: &VarBuilder, config: &VaeConfig) -> Result<Self> {
        Ok(Self {
            to_moments: ToMoments::load(vb, config)?,
            to_pixels: ToPixels::load(vb, config)?,
            config: config.clone(),
            network_weights: vb.network_weights(),
            original: None,
        })
    }

    /// Brings this network's weights to the device and takes them off.
    pub(crate) fn network_weights(&self) -> &NetworkWeights {
        &self.network_weights
    }

    /// The encoder's raw output: `(images, 8, h/8, w/8)`, the log-variance not clamped.
    pub fn raw_moments(&self, run: &Run, pixels: &Tensor) -> Result<Tensor> {
        self.to_moments.forward(run, pixels)
    }

    pub fn encode(&self, run: &Run, pixels: &Tensor) -> Result<DiagonalGaussianDistribution> {
        DiagonalGaussianDistribution::from_tensor(&self.raw_moments(run, pixels)?)
    }

    /// Pixels for latents that are already divided by [`SCALING_FACTOR`]; not clamped.
    pub fn decode(&self, run: &Run, latents: &Tensor) -> Result<Tensor> {
        self.to_pixels.forward(run, latents)
    }

    /// Lets `encode_frame` and `decode_frame` redo in `f32` what overflows.
    pub(crate) fn with_original(self, file: TensorFile, device: &Device) -> Self {
        let original = Some(Original {
            file,
            device: device.clone(),
        });
        Self { original, ..self }
    }

    /// As [`AutoencoderKl::encode`], for the picture of output frame `frame`; the moments are finite.
    ///
    /// # Errors
    /// [`ModelError::NotFinite`] where even `f32` gives values that are not.
    pub fn encode_frame(
        &self,
        run: &Run,
        pixels: &Tensor,
        frame: u64,
    ) -> std::result::Result<DiagonalGaussianDistribution, ModelError> {
        let failed = |source| ModelError::compute("encode a face", source);
        let moments = self.raw_moments(run, pixels).map_err(failed)?;
        let moments = self.finite_or_redone(moments, "encoding", frame, |vb, config| {
            ToMoments::load(vb, config)?.forward(run, pixels)
        })?;
        DiagonalGaussianDistribution::from_tensor(&moments).map_err(failed)
    }

    /// As [`AutoencoderKl::decode`], for the latents of output frame `frame`; the pixels are finite.
    ///
    /// # Errors
    /// [`ModelError::NotFinite`] where even `f32` gives values that are not.
    pub fn decode_frame(
        &self,
        run: &Run,
        latents: &Tensor,
        frame: u64,
    ) -> std::result::Result<Tensor, ModelError> {
        let pixels = self
            .decode(run, latents)
            .map_err(|source| ModelError::compute("decode a face", source))?;
        self.finite_or_redone(pixels, "decoding", frame, |vb, config| {
            ToPixels::load(vb, config)?.forward(run, latents)
        })
    }

    /// The weights that `redo` loads are gone when it returns: they take twice the memory of the half type's.
    fn finite_or_redone(
        &self,
        first: Tensor,
        stage: &'static str,
        frame: u64,
        redo: impl FnOnce(&VarBuilder, &VaeConfig) -> Result<Tensor>,
    ) -> std::result::Result<Tensor, ModelError> {
        let failed = |source| ModelError::compute("check a face", source);
        if is_finite(&first).map_err(failed)? {
            return Ok(first);
        }
        drop(first);
        if let Some(original) = &self.original {
            tracing::warn!(
                frame,
                stage,
                dtype = self.to_pixels.dtype.as_str(),
                "values left the type's range; the frame is done again in f32"
            );
            let report = LoadReport::default();
            let vb = VarBuilder::root(&original.file, &report, &original.device, DType::F32);
            let second = redo(&vb, &self.config)
                .map_err(|source| ModelError::compute("do a face again in f32", source))?;
            if is_finite(&second).map_err(failed)? {
                return Ok(second);
            }
        }
        Err(ModelError::NotFinite {
            stage,
            place: format!("frame {frame}"),
            dtype: DType::F32,
        })
    }
}
