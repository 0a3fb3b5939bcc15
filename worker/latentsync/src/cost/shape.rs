//! What the need for memory follows from: the networks' configurations and the side of the pictures.

use candle_core::Result;

use crate::Checkpoint;
use crate::checkpoint::{HostBytes, TensorShapes, unet_tensors, vae_tensors, whisper_tensors};
use crate::config::{ConfigError, UNetConfig, VaeConfig, WhisperDims};

/// The networks and the pictures that they work on.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelShape {
    pub unet: UNetConfig,
    pub vae: VaeConfig,
    pub whisper: WhisperDims,
    /// Side of a face in pixels, a multiple of 64.
    pub resolution_px: usize,
    /// Bytes that a weight of each network takes of the host where the CPU computes: of a mapped file those that it
    /// has there, else 4.
    pub host_bytes: HostBytes,
}

/// Dimensions of Whisper tiny, whose states are as wide as the published UNet wants them.
const WHISPER_TINY: WhisperDims = WhisperDims {
    n_mels: 80,
    n_audio_ctx: 1500,
    n_audio_state: 384,
    n_audio_head: 6,
    n_audio_layer: 4,
};

impl ModelShape {
    /// Frames of a window.
    pub const FRAMES: usize = 16;

    /// The published model at `resolution_px`: 256 is `LatentSync` 1.5, 512 is 1.6. Weights in a half type.
    ///
    /// # Errors
    /// None: the published configurations are part of the program.
    pub fn published(resolution_px: usize) -> std::result::Result<Self, ConfigError> {
        Ok(Self {
            unet: UNetConfig::from_json(UNetConfig::PUBLISHED)?,
            vae: VaeConfig::from_json(VaeConfig::PUBLISHED)?,
            whisper: WHISPER_TINY,
            resolution_px,
            host_bytes: HostBytes::HALF,
        })
    }

    /// The networks of a checkpoint, at the resolution that it was made for.
    pub fn of(checkpoint: &Checkpoint) -> Self {
        Self {
            unet: checkpoint.unet_config().clone(),
            vae: checkpoint.vae_config().clone(),
            whisper: checkpoint.whisper_dims(),
            resolution_px: usize::try_from(checkpoint.resolution_px()).unwrap_or(0),
            host_bytes: checkpoint.host_bytes(),
        }
    }

    /// What a simulated GPU counts for a checkpoint: the published model that its note names, or else its own shape.
    ///
    /// # Errors
    /// As [`ModelShape::published`].
    pub fn accounted(checkpoint: &Checkpoint) -> std::result::Result<Self, ConfigError> {
        match checkpoint.account_as() {
            Some(model) => Self::published(model.resolution_px()),
            None => Ok(Self::of(checkpoint)),
        }
    }

    /// The same networks on pictures of another size.
    #[must_use]
    pub fn at(self, resolution_px: usize) -> Self {
        Self {
            resolution_px,
            ..self
        }
    }

    /// Side of the latents.
    pub fn latent_side(&self) -> usize {
        self.resolution_px / crate::preprocess::LATENT_FACTOR
    }

    /// Tokens of speech that a frame gets.
    pub fn audio_tokens(&self) -> usize {
        latentfarm_common::audio::windows::ROWS_PER_FRAME * self.whisper.tokens_per_row()
    }

    /// The values in the networks' weights.
    pub fn weights(&self) -> Result<WeightCounts> {
        Ok(WeightCounts {
            unet: WeightCount::of(&unet_tensors(&self.unet)?),
            vae: WeightCount::of(&vae_tensors(&self.vae)?),
            whisper: WeightCount::of(&whisper_tensors(&self.whisper)?),
        })
    }
}

/// The numbers of values in the three networks' weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WeightCounts {
    pub unet: WeightCount,
    pub vae: WeightCount,
    pub whisper: WeightCount,
}

impl WeightCounts {
    /// Norms, biases and tables of all three.
    pub fn rest(&self) -> usize {
        self.unet.rest + self.vae.rest + self.whisper.rest
    }
}

/// The numbers of values in one network's weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WeightCount {
    /// Of linear layers and convolutions: mapped on the CPU, and what leaves a device.
    pub layers: usize,
    /// Norms, biases and tables, which stay.
    pub rest: usize,
}

impl WeightCount {
    fn of(shapes: &TensorShapes) -> Self {
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
