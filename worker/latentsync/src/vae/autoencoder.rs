//! The image autoencoder with its two halves. If a half type overflows in a picture, that picture is computed
//! again in `f32`.

use candle_core::{DType, Device, Result, Tensor};

use super::decoder::Decoder;
use super::encoder::Encoder;
use crate::config::VaeConfig;
use crate::error::ModelError;
use crate::finite::is_finite;
use crate::layers::Conv2d;
use crate::options::ExecutionOptions;
use crate::run::Run;
use crate::slices::SliceLimits;
use crate::tensors::{LoadReport, NetworkWeights, TensorFile, VarBuilder};

/// The factor by which latents are multiplied after encoding. The reference's pipeline sets it; it is not in
/// the published configuration.
pub const SCALING_FACTOR: f64 = 0.182_15;

/// The image autoencoder of Stable Diffusion with its weights.
pub struct AutoencoderKl {
    encoder_half: EncoderHalf,
    decoder_half: DecoderHalf,
    config: VaeConfig,
    network_weights: NetworkWeights,
    /// The weights for computing in `f32` what overflows, if the network computes in a half type.
    f32_fallback: Option<F32Fallback>,
}

/// The encoder and the convolution after it: pixels to moments.
struct EncoderHalf {
    encoder: Encoder,
    quant_conv: Conv2d,
    dtype: DType,
}

/// The decoder and the convolution before it: latents to pixels.
struct DecoderHalf {
    post_quant_conv: Conv2d,
    decoder: Decoder,
    dtype: DType,
}

/// The normal distribution that the encoder gives for every latent value, in `f32`.
pub struct DiagonalGaussianDistribution {
    /// The mean of every latent value, `(images, 4, h/8, w/8)`.
    pub mean: Tensor,
    /// The logarithm of the variance, of the shape of `mean` and clamped to -30..=20.
    pub logvar: Tensor,
}

impl DiagonalGaussianDistribution {
    fn from_tensor(moments: &Tensor) -> Result<Self> {
        let halves = moments.chunk(2, 1)?;
        Ok(Self {
            // The copy is forced: for a single image, the first half is contiguous as a view, which would
            // keep the second half alive.
            mean: halves[0].force_contiguous()?,
            logvar: halves[1].clamp(-30.0, 20.0)?,
        })
    }

    /// Returns the standard deviation of every value.
    pub fn std(&self) -> Result<Tensor> {
        (&self.logvar * 0.5)?.exp()
    }

    /// Returns a sample from `noise`, which is standard normal `f32` of the shape of `mean`. The sample is
    /// not yet multiplied by [`SCALING_FACTOR`].
    pub fn sample(&self, noise: &Tensor) -> Result<Tensor> {
        &self.mean + (self.std()? * noise)?
    }
}

/// The weight file that the network was loaded from. It is mapped, so that it takes no memory until it is
/// read, and its contents stay the same if another file replaces it.
struct F32Fallback {
    file: TensorFile,
    device: Device,
}

/// Returns the options under which a picture is computed again in `f32` in a run under `options`: the
/// smallest slices and weights that are copied layer by layer, whatever the plan. Values in `f32` take twice
/// the memory of those in a half type, and so rare a picture may take longer rather than need a larger device.
pub(crate) fn f32_options(options: ExecutionOptions) -> ExecutionOptions {
    ExecutionOptions {
        limits: SliceLimits::LOW_MEMORY_F32,
        offload: true,
        streamed: true,
        ..options
    }
}

impl EncoderHalf {
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

impl DecoderHalf {
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
    /// Builds the network from the tensors under `vb`.
    pub(crate) fn load(vb: &VarBuilder, config: &VaeConfig) -> Result<Self> {
        Ok(Self {
            encoder_half: EncoderHalf::load(vb, config)?,
            decoder_half: DecoderHalf::load(vb, config)?,
            config: config.clone(),
            network_weights: vb.network_weights(),
            f32_fallback: None,
        })
    }

    /// Returns the weights, to evict them from the device while the network is idle.
    pub(crate) fn network_weights(&self) -> &NetworkWeights {
        &self.network_weights
    }

    /// Returns the encoder's output, `(images, 8, h/8, w/8)` in `f32`: mean 4, log-variance 4, which is not
    /// clamped.
    pub fn raw_moments(&self, run: &Run, pixels: &Tensor) -> Result<Tensor> {
        self.encoder_half.forward(run, pixels)
    }

    /// Encodes pixels, `(images, 3, h, w)`, to the distribution of their latents.
    pub fn encode(&self, run: &Run, pixels: &Tensor) -> Result<DiagonalGaussianDistribution> {
        DiagonalGaussianDistribution::from_tensor(&self.raw_moments(run, pixels)?)
    }

    /// Decodes latents that are already divided by [`SCALING_FACTOR`] to pixels in `f32`, which are not
    /// clamped.
    pub fn decode(&self, run: &Run, latents: &Tensor) -> Result<Tensor> {
        self.decoder_half.forward(run, latents)
    }

    /// Returns the autoencoder with the file from which `encode_frame` and `decode_frame` compute again in
    /// `f32` what overflows.
    pub(crate) fn with_f32_fallback(self, file: TensorFile, device: &Device) -> Self {
        let f32_fallback = Some(F32Fallback {
            file,
            device: device.clone(),
        });
        Self { f32_fallback, ..self }
    }

    /// Encodes the picture of output frame `frame` as [`AutoencoderKl::encode`] does, and checks that the
    /// result is finite.
    ///
    /// # Errors
    /// [`ModelError::NotFinite`] if even `f32` gives infinities or NaN.
    pub fn encode_frame(
        &self,
        run: &Run,
        pixels: &Tensor,
        frame: u64,
    ) -> std::result::Result<DiagonalGaussianDistribution, ModelError> {
        let failed = |source| ModelError::compute("encode a face", source);
        let moments = self.raw_moments(run, pixels).map_err(failed)?;
        let moments = self.finite_or_f32(run, moments, "encoding", frame, |run, vb, config| {
            EncoderHalf::load(vb, config)?.forward(run, pixels)
        })?;
        DiagonalGaussianDistribution::from_tensor(&moments).map_err(failed)
    }

    /// Decodes the latents of output frame `frame` as [`AutoencoderKl::decode`] does, and checks that the
    /// result is finite.
    ///
    /// # Errors
    /// [`ModelError::NotFinite`] if even `f32` gives infinities or NaN.
    pub fn decode_frame(
        &self,
        run: &Run,
        latents: &Tensor,
        frame: u64,
    ) -> std::result::Result<Tensor, ModelError> {
        let pixels = self
            .decode(run, latents)
            .map_err(|source| ModelError::compute("decode a face", source))?;
        self.finite_or_f32(run, pixels, "decoding", frame, |run, vb, config| {
            DecoderHalf::load(vb, config)?.forward(run, latents)
        })
    }

    /// Returns `first` if it is finite, else the result of `redo`, which loads the weights in `f32` and drops
    /// them when it returns. Those in the half type leave the device meanwhile, so that both together need
    /// little more memory than the first attempt.
    fn finite_or_f32(
        &self,
        run: &Run,
        first: Tensor,
        stage: &'static str,
        frame: u64,
        redo: impl FnOnce(&Run, &VarBuilder, &VaeConfig) -> Result<Tensor>,
    ) -> std::result::Result<Tensor, ModelError> {
        let failed = |source| ModelError::compute("check a face", source);
        if is_finite(&first).map_err(failed)? {
            return Ok(first);
        }
        drop(first);
        if let Some(f32_fallback) = &self.f32_fallback {
            tracing::warn!(
                frame,
                stage,
                dtype = self.decoder_half.dtype.as_str(),
                "values left the type's range; the frame is done again in f32"
            );
            self.network_weights.evict();
            let options = f32_options(run.options);
            let report = LoadReport::default();
            let vb = VarBuilder::root(&f32_fallback.file, &report, &f32_fallback.device, DType::F32)
                .with_options(options)
                .streamed();
            let second = redo(&run.with_options(options), &vb, &self.config)
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
