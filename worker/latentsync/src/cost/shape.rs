//! The sizes that the memory of a model follows from: the networks' configurations and the side of the faces.

use candle_core::Result;

use crate::Checkpoint;
use crate::checkpoint::{BytesPerWeight, unet_tensors, vae_tensors, whisper_tensors};
use crate::config::{ConfigError, UNetConfig, VaeConfig, WhisperDims};

/// The configurations of the networks, and the size of the faces that they run on.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelShape {
    /// The configuration of the UNet.
    pub unet: UNetConfig,
    /// The configuration of the image autoencoder.
    pub vae: VaeConfig,
    /// The dimensions of the audio encoder.
    pub whisper: WhisperDims,
    /// The side of a face in pixels, a multiple of 64.
    pub resolution_px: usize,
    /// The bytes that a weight of each network takes of the host's memory if the CPU computes.
    pub host_bytes_per_weight: BytesPerWeight,
}

/// The dimensions of Whisper tiny, whose states are as wide as the published UNet's cross-attention.
const WHISPER_TINY: WhisperDims = WhisperDims {
    n_mels: 80,
    n_audio_ctx: 1500,
    n_audio_state: 384,
    n_audio_head: 6,
    n_audio_layer: 4,
};

impl ModelShape {
    /// The number of frames of a window.
    pub const FRAMES: usize = 16;

    /// Returns the published model at `resolution_px`, with weights in a half type: 256 px is `LatentSync`
    /// 1.5, 512 px is 1.6.
    ///
    /// # Errors
    /// It cannot fail, because the published configurations are a part of the program.
    pub fn published(resolution_px: usize) -> std::result::Result<Self, ConfigError> {
        Ok(Self {
            unet: UNetConfig::from_json(UNetConfig::PUBLISHED)?,
            vae: VaeConfig::from_json(VaeConfig::PUBLISHED)?,
            whisper: WHISPER_TINY,
            resolution_px,
            host_bytes_per_weight: BytesPerWeight::HALF,
        })
    }

    /// Returns the networks of a checkpoint at the resolution that it was trained with.
    pub fn of(checkpoint: &Checkpoint) -> Self {
        Self {
            unet: checkpoint.unet_config().clone(),
            vae: checkpoint.vae_config().clone(),
            whisper: checkpoint.whisper_dims(),
            resolution_px: usize::try_from(checkpoint.resolution_px()).unwrap_or(0),
            host_bytes_per_weight: checkpoint.host_bytes_per_weight(),
        }
    }

    /// Returns the model whose memory a simulated GPU charges for a checkpoint: the published model that its
    /// metadata name, or else its own.
    ///
    /// # Errors
    /// See [`ModelShape::published`].
    pub fn accounted(checkpoint: &Checkpoint) -> std::result::Result<Self, ConfigError> {
        match checkpoint.account_as() {
            Some(model) => Self::published(model.resolution_px()),
            None => Ok(Self::of(checkpoint)),
        }
    }

    /// Returns the same networks for faces of another size.
    #[must_use]
    pub fn at(self, resolution_px: usize) -> Self {
        Self {
            resolution_px,
            ..self
        }
    }

    /// Returns the side of the latents.
    pub fn latent_side(&self) -> usize {
        self.resolution_px / crate::preprocess::LATENT_FACTOR
    }

    /// Returns the number of audio tokens of a frame.
    pub(crate) fn audio_tokens(&self) -> usize {
        latentfarm_common::audio::windows::ROWS_PER_FRAME * self.whisper.tokens_per_row()
    }

    /// Counts the values in the networks' weights.
    ///
    /// # Errors
    /// Fails if a network cannot be built from its configuration.
    pub fn weights(&self) -> Result<WeightCounts> {
        let vae = vae_tensors(&self.vae)?;
        let of_encoder = |name: &str| name.starts_with("encoder.") || name.starts_with("quant_conv.");
        let (encoder, decoder): (Vec<_>, Vec<_>) = vae.iter().partition(|(name, _)| of_encoder(name));
        Ok(WeightCounts {
            unet: WeightCount::of(&unet_tensors(&self.unet)?),
            vae: WeightCount::of(&vae),
            vae_encoder: WeightCount::of(encoder),
            vae_decoder: WeightCount::of(decoder),
            whisper: WeightCount::of(&whisper_tensors(&self.whisper)?),
        })
    }
}

/// The numbers of values in the three networks' weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WeightCounts {
    /// The weights of the UNet.
    pub unet: WeightCount,
    /// The weights of the image autoencoder.
    pub vae: WeightCount,
    /// Those of them that encode pictures.
    pub vae_encoder: WeightCount,
    /// Those of them that decode latents.
    pub vae_decoder: WeightCount,
    /// The weights of the audio encoder.
    pub whisper: WeightCount,
}

impl WeightCounts {
    /// Returns the number of values in the norms, biases and tables of all three networks.
    pub fn rest(&self) -> usize {
        self.unet.rest + self.vae.rest + self.whisper.rest
    }
}

/// The numbers of values in one network's weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WeightCount {
    /// The values of linear layers and convolutions, which are mapped on the CPU and offloaded elsewhere.
    pub layers: usize,
    /// The values of norms, biases and tables, which always stay on the device.
    pub rest: usize,
}

impl WeightCount {
    fn of<'a>(shapes: impl IntoIterator<Item = (&'a String, &'a Vec<usize>)>) -> Self {
        let mut values = Self::default();
        for (name, shape) in shapes {
            let count: usize = shape.iter().product();
            if name.ends_with(".weight") && shape.len() > 1 {
                values.layers += count;
            } else {
                values.rest += count;
            }
        }
        values
    }
}
