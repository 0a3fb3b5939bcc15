//! The configuration of the image autoencoder.

use serde::Deserialize;

use super::{ConfigError, MOST_LAYERS, WIDEST, check};

/// The configuration of the image autoencoder, with the fields of diffusers' `AutoencoderKL`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct VaeConfig {
    /// The channels of each block of the encoder, from the highest resolution on; the decoder mirrors them.
    pub block_out_channels: Vec<usize>,
    /// The channels of the input pictures: 3.
    pub in_channels: usize,
    /// The channels of the decoded pictures: 3.
    pub out_channels: usize,
    /// The channels of the latents: 4.
    pub latent_channels: usize,
    /// The `ResNet` blocks of a block of the encoder; a block of the decoder has one more.
    pub layers_per_block: usize,
    /// The groups of the group norms.
    pub norm_num_groups: usize,
    /// The name of the activation function: `silu`.
    pub act_fn: String,
    /// The class names of the encoder's blocks.
    pub down_block_types: Vec<String>,
    /// The class names of the decoder's blocks.
    pub up_block_types: Vec<String>,
}

impl VaeConfig {
    /// The configuration of `sd-vae-ft-mse`, which the published models use.
    pub const PUBLISHED: &'static str = include_str!("../published/vae_config.json");

    /// Parses a configuration and checks that it is supported.
    ///
    /// # Errors
    /// [`ConfigError`] names the first field that is not supported.
    pub fn from_json(text: &str) -> Result<Self, ConfigError> {
        let config: Self = serde_json::from_str(text).map_err(ConfigError::Json)?;
        config.validate()?;
        Ok(config)
    }

    /// Checks that every field has a value that is implemented.
    fn validate(&self) -> Result<(), ConfigError> {
        let channels = &self.block_out_channels;
        check(
            channels.len() == 4,
            "block_out_channels",
            channels,
            "four blocks are needed: latents are an eighth of the picture",
        )?;
        check(
            self.norm_num_groups > 0
                && channels
                    .iter()
                    .all(|c| (1..=WIDEST).contains(c) && c.is_multiple_of(self.norm_num_groups)),
            "block_out_channels",
            channels,
            "each must be a multiple of norm_num_groups, up to 8192",
        )?;
        let plain = |names: &[String], wanted: &str| names.len() == 4 && names.iter().all(|n| n == wanted);
        check(
            plain(&self.down_block_types, "DownEncoderBlock2D"),
            "down_block_types",
            &self.down_block_types,
            "four times DownEncoderBlock2D is implemented",
        )?;
        check(
            plain(&self.up_block_types, "UpDecoderBlock2D"),
            "up_block_types",
            &self.up_block_types,
            "four times UpDecoderBlock2D is implemented",
        )?;
        check(
            self.act_fn == "silu",
            "act_fn",
            &self.act_fn,
            "only silu is implemented",
        )?;
        check(
            self.latent_channels == 4,
            "latent_channels",
            self.latent_channels,
            "latents have 4 channels",
        )?;
        check(
            self.in_channels == 3 && self.out_channels == 3,
            "in_channels, out_channels",
            (self.in_channels, self.out_channels),
            "pictures are RGB",
        )?;
        check(
            (1..=MOST_LAYERS).contains(&self.layers_per_block),
            "layers_per_block",
            self.layers_per_block,
            "1 to 8 are supported",
        )
    }
}
