//! The configuration of the denoising UNet.

use serde::Deserialize;

use super::{ConfigError, MOST_LAYERS, WIDEST, check};

/// The configuration of the denoising UNet: the `model` section of a published `stage2.yaml`, as JSON. The
/// fields have the names and meanings of diffusers' `UNet2DConditionModel` and `AnimateDiff`'s
/// `UNet3DConditionModel`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "the fields of the published file")]
pub struct UNetConfig {
    /// The output channels of each down block, from the highest resolution on; the up blocks mirror them.
    pub block_out_channels: Vec<usize>,
    /// The layers of a down block; an up block has one more.
    pub layers_per_block: usize,
    /// The number of attention heads, although the file calls it the width of a head.
    #[serde(rename = "attention_head_dim")]
    pub attention_heads: usize,
    /// The width of the audio features.
    pub cross_attention_dim: usize,
    /// The groups of the group norms outside motion modules.
    pub norm_num_groups: usize,
    /// The epsilon of the group norms in `ResNet` blocks.
    pub norm_eps: f64,
    /// The channels of the input: 13.
    pub in_channels: usize,
    /// The channels of the predicted noise: 4.
    pub out_channels: usize,
    /// The class names of the down blocks.
    pub down_block_types: Vec<String>,
    /// The class names of the up blocks.
    pub up_block_types: Vec<String>,
    /// The class name of the middle block.
    pub mid_block_type: String,
    /// The name of the activation function: `silu`.
    pub act_fn: String,
    /// Whether the timestep's sinusoid begins with the cosines.
    pub flip_sin_to_cos: bool,
    /// The shift of the frequencies of the timestep's sinusoid.
    pub freq_shift: f64,
    /// Whether the transformers attend to audio features.
    pub add_audio_layer: bool,
    /// Whether the network has motion modules.
    pub use_motion_module: bool,
    /// The downscaling factors, relative to the latents, of the blocks with motion modules.
    pub motion_module_resolutions: Vec<usize>,
    /// Whether the middle block has a motion module.
    pub motion_module_mid_block: bool,
    /// Whether the down blocks have no motion modules.
    pub motion_module_decoder_only: bool,
    /// The configuration of the motion modules.
    pub motion_module_kwargs: MotionConfig,
}

/// The most blocks. Each but the last halves the latents, whose side is 32 or 64 in the published models.
const MOST_BLOCKS: usize = 8;

/// Whether a layer of a block has a spatial transformer and a motion module after its `ResNet` block.
#[derive(Clone, Copy)]
pub(crate) struct LayerModules {
    pub(crate) attention: bool,
    pub(crate) motion: bool,
}

/// The configuration of the motion modules.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct MotionConfig {
    /// The heads of the temporal attention.
    pub num_attention_heads: usize,
    /// The transformer blocks of a module.
    pub num_transformer_block: usize,
    /// The kinds of the attentions in a transformer block: `Temporal_Self`.
    pub attention_block_types: Vec<String>,
    /// Whether a position table is added before each attention.
    pub temporal_position_encoding: bool,
    /// The number of frames that the position table has.
    pub temporal_position_encoding_max_len: usize,
    /// The divisor of the width of the attention: 1.
    pub temporal_attention_dim_div: usize,
}

impl UNetConfig {
    /// The configuration of the published models, which is the same for 256 and 512 px.
    pub const PUBLISHED: &'static str = include_str!("../published/unet_config.json");

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
        let blocks = channels.len();
        check(
            (2..=MOST_BLOCKS).contains(&blocks) && channels.iter().all(|c| *c <= WIDEST),
            "block_out_channels",
            channels,
            "two to eight blocks of up to 8192 channels are supported",
        )?;
        check(
            (1..=WIDEST).contains(&self.cross_attention_dim),
            "cross_attention_dim",
            self.cross_attention_dim,
            "1 to 8192 are supported",
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
            (1..=MOST_LAYERS).contains(&self.layers_per_block),
            "layers_per_block",
            self.layers_per_block,
            "1 to 8 are supported",
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
            (1..=MOST_LAYERS).contains(&motion.attention_block_types.len())
                && motion
                    .attention_block_types
                    .iter()
                    .all(|name| name == "Temporal_Self"),
            "attention_block_types",
            &motion.attention_block_types,
            "only Temporal_Self is implemented",
        )?;
        check(
            motion.num_transformer_block <= MOST_LAYERS,
            "num_transformer_block",
            motion.num_transformer_block,
            "up to 8 are supported",
        )?;
        check(
            motion.temporal_attention_dim_div == 1,
            "temporal_attention_dim_div",
            motion.temporal_attention_dim_div,
            "only 1 is implemented",
        )?;
        check(
            !motion.temporal_position_encoding
                || (16..=WIDEST).contains(&motion.temporal_position_encoding_max_len),
            "temporal_position_encoding_max_len",
            motion.temporal_position_encoding_max_len,
            "a window has 16 frames, and up to 8192 are supported",
        )
    }

    /// Returns the modules of the layers of down block `index`, counted from the highest resolution.
    pub(crate) fn down_modules(&self, index: usize) -> LayerModules {
        LayerModules {
            attention: self.down_block_types[index] == "CrossAttnDownBlock3D",
            motion: self.has_motion(index) && !self.motion_module_decoder_only,
        }
    }

    /// Returns the modules of the layers of up block `index`, counted from the lowest resolution.
    pub(crate) fn up_modules(&self, index: usize) -> LayerModules {
        LayerModules {
            attention: self.up_block_types[index] == "CrossAttnUpBlock3D",
            motion: self.has_motion(self.block_out_channels.len() - 1 - index),
        }
    }

    /// Returns whether the resolution of down block `level` has motion modules.
    fn has_motion(&self, level: usize) -> bool {
        self.use_motion_module && self.motion_module_resolutions.contains(&(1 << level))
    }
}
