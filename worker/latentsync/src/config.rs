//! The networks' configuration files as they are published, checked for what this port implements.

use serde::Deserialize;

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("not the JSON of a model configuration")]
    Json(#[source] serde_json::Error),
    #[error("`{field}` is {value}, but {wanted}")]
    Unsupported {
        field: &'static str,
        value: String,
        wanted: &'static str,
    },
}

fn check(
    holds: bool,
    field: &'static str,
    value: impl std::fmt::Debug,
    wanted: &'static str,
) -> Result<(), ConfigError> {
    if holds {
        return Ok(());
    }
    Err(ConfigError::Unsupported {
        field,
        value: format!("{value:?}"),
        wanted,
    })
}

/// Of the denoising UNet; the `model` section of a published `stage2.yaml`, as JSON.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "the fields of the published file")]
pub struct UNetConfig {
    pub block_out_channels: Vec<usize>,
    pub layers_per_block: usize,
    /// The NUMBER of heads, whatever its name says.
    #[serde(rename = "attention_head_dim")]
    pub attention_heads: usize,
    pub cross_attention_dim: usize,
    pub norm_num_groups: usize,
    pub norm_eps: f64,
    pub in_channels: usize,
    pub out_channels: usize,
    pub down_block_types: Vec<String>,
    pub up_block_types: Vec<String>,
    pub mid_block_type: String,
    pub act_fn: String,
    pub flip_sin_to_cos: bool,
    pub freq_shift: f64,
    pub add_audio_layer: bool,
    pub use_motion_module: bool,
    pub motion_module_resolutions: Vec<usize>,
    pub motion_module_mid_block: bool,
    pub motion_module_decoder_only: bool,
    pub motion_module_kwargs: MotionConfig,
}

/// Of the temporal attention.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct MotionConfig {
    pub num_attention_heads: usize,
    pub num_transformer_block: usize,
    pub attention_block_types: Vec<String>,
    pub temporal_position_encoding: bool,
    pub temporal_position_encoding_max_len: usize,
    pub temporal_attention_dim_div: usize,
}

impl UNetConfig {
    /// The published model's, 256 and 512 px alike.
    pub const PUBLISHED: &'static str = include_str!("published/unet_config.json");

    pub fn from_json(text: &str) -> Result<Self, ConfigError> {
        let config: Self = serde_json::from_str(text).map_err(ConfigError::Json)?;
        config.validate()?;
        Ok(config)
    }

    fn validate(&self) -> Result<(), ConfigError> {
        let channels = &self.block_out_channels;
        let blocks = channels.len();
        check(
            blocks >= 2,
            "block_out_channels",
            channels,
            "at least two blocks are needed",
        )?;
        check(
            channels
                .iter()
                .all(|c| *c > 0 && c.is_multiple_of(self.norm_num_groups.max(1)) && c.is_multiple_of(32)),
            "block_out_channels",
            channels,
            "each must be a multiple of norm_num_groups and of the motion modules' 32 groups",
        )?;
        check(
            self.norm_num_groups > 0,
            "norm_num_groups",
            self.norm_num_groups,
            "it must be positive",
        )?;
        check(
            self.attention_heads > 0 && channels.iter().all(|c| c.is_multiple_of(self.attention_heads)),
            "attention_head_dim",
            self.attention_heads,
            "it is the number of heads and must divide every block's channels",
        )?;
        let down = |name: &String| name == "CrossAttnDownBlock3D" || name == "DownBlock3D";
        let up = |name: &String| name == "CrossAttnUpBlock3D" || name == "UpBlock3D";
        let down_types = &self.down_block_types;
        let up_types = &self.up_block_types;
        check(
            down_types.len() == blocks && down_types.iter().all(down),
            "down_block_types",
            down_types,
            "one of CrossAttnDownBlock3D, DownBlock3D is needed for each entry of block_out_channels",
        )?;
        check(
            up_types.len() == blocks && up_types.iter().all(up),
            "up_block_types",
            up_types,
            "one of CrossAttnUpBlock3D, UpBlock3D is needed for each entry of block_out_channels",
        )?;
        check(
            self.mid_block_type == "UNetMidBlock3DCrossAttn",
            "mid_block_type",
            &self.mid_block_type,
            "only UNetMidBlock3DCrossAttn is implemented",
        )?;
        check(
            self.act_fn == "silu",
            "act_fn",
            &self.act_fn,
            "only silu is implemented",
        )?;
        check(
            self.in_channels == 13,
            "in_channels",
            self.in_channels,
            "the pipeline feeds 13",
        )?;
        check(
            self.out_channels == 4,
            "out_channels",
            self.out_channels,
            "latents have 4 channels",
        )?;
        check(
            self.add_audio_layer,
            "add_audio_layer",
            self.add_audio_layer,
            "the audio layer is needed",
        )?;
        check(
            self.layers_per_block > 0,
            "layers_per_block",
            self.layers_per_block,
            "it must be positive",
        )?;
        self.validate_motion()
    }

    fn validate_motion(&self) -> Result<(), ConfigError> {
        let motion = &self.motion_module_kwargs;
        check(
            motion.num_attention_heads > 0
                && self
                    .block_out_channels
                    .iter()
                    .all(|c| c.is_multiple_of(motion.num_attention_heads)),
            "num_attention_heads",
            motion.num_attention_heads,
            "it must divide every block's channels",
        )?;
        check(
            !motion.attention_block_types.is_empty()
                && motion
                    .attention_block_types
                    .iter()
                    .all(|name| name == "Temporal_Self"),
            "attention_block_types",
            &motion.attention_block_types,
            "only Temporal_Self is implemented",
        )?;
        check(
            motion.temporal_attention_dim_div == 1,
            "temporal_attention_dim_div",
            motion.temporal_attention_dim_div,
            "only 1 is implemented",
        )?;
        check(
            !motion.temporal_position_encoding || motion.temporal_position_encoding_max_len >= 16,
            "temporal_position_encoding_max_len",
            motion.temporal_position_encoding_max_len,
            "a window has 16 frames",
        )
    }

    /// Whether the blocks that work at `1 / factor` of the latents' size have motion modules.
    pub fn has_motion(&self, factor: usize, decoder: bool) -> bool {
        self.use_motion_module
            && self.motion_module_resolutions.contains(&factor)
            && (decoder || !self.motion_module_decoder_only)
    }
}

/// Of the image autoencoder.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct VaeConfig {
    pub block_out_channels: Vec<usize>,
    pub in_channels: usize,
    pub out_channels: usize,
    pub latent_channels: usize,
    pub layers_per_block: usize,
    pub norm_num_groups: usize,
    pub act_fn: String,
    pub down_block_types: Vec<String>,
    pub up_block_types: Vec<String>,
}

impl VaeConfig {
    /// Of sd-vae-ft-mse.
    pub const PUBLISHED: &'static str = include_str!("published/vae_config.json");

    pub fn from_json(text: &str) -> Result<Self, ConfigError> {
        let config: Self = serde_json::from_str(text).map_err(ConfigError::Json)?;
        config.validate()?;
        Ok(config)
    }

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
                    .all(|c| *c > 0 && c.is_multiple_of(self.norm_num_groups)),
            "block_out_channels",
            channels,
            "each must be a multiple of norm_num_groups",
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
            self.layers_per_block > 0,
            "layers_per_block",
            self.layers_per_block,
            "it must be positive",
        )
    }
}

/// Of the Whisper encoder: the `dims` of its checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct WhisperDims {
    pub n_mels: usize,
    /// Positions of the encoder, half the mel frames that it takes.
    pub n_audio_ctx: usize,
    pub n_audio_state: usize,
    pub n_audio_head: usize,
    pub n_audio_layer: usize,
}

impl WhisperDims {
    pub fn from_json(text: &str) -> Result<Self, ConfigError> {
        let dims: Self = serde_json::from_str(text).map_err(ConfigError::Json)?;
        dims.validate()?;
        Ok(dims)
    }

    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        check(
            self.n_mels == 80,
            "n_mels",
            self.n_mels,
            "the spectrogram has 80 bands",
        )?;
        check(
            self.n_audio_ctx == 1500,
            "n_audio_ctx",
            self.n_audio_ctx,
            "an audio window has 1500 rows",
        )?;
        check(
            self.n_audio_layer > 0,
            "n_audio_layer",
            self.n_audio_layer,
            "it must be positive",
        )?;
        check(
            self.n_audio_head > 0 && self.n_audio_state.is_multiple_of(self.n_audio_head),
            "n_audio_head",
            self.n_audio_head,
            "it must divide n_audio_state",
        )
    }

    /// Tokens that one feature row gives: every block's state, and the embedding's.
    pub fn tokens_per_row(&self) -> usize {
        self.n_audio_layer + 1
    }
}
