//! The configuration files of the networks as they are published. They are checked when a checkpoint is
//! opened, so that a model with a feature that this crate does not implement is refused.

mod unet;
mod vae;
mod whisper;

pub(crate) use self::unet::LayerModules;
pub use self::unet::{MotionConfig, UNetConfig};
pub use self::vae::VaeConfig;
pub use self::whisper::WhisperDims;

/// The reason why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The text is not JSON, or a field is missing or of another type.
    #[error("not the JSON of a model configuration")]
    Json(#[source] serde_json::Error),
    /// A field has a value that is not implemented.
    #[error("`{field}` is {value}, but {wanted}")]
    Unsupported {
        /// The name of the field in the file.
        field: &'static str,
        /// The value of the field.
        value: String,
        /// What is implemented, as a clause.
        wanted: &'static str,
    },
}

/// The widest layer of a network that is built; the published ones have up to 1280 channels. It keeps every
/// product of sizes within 64 bits.
const WIDEST: usize = 8192;
/// The most layers of a block, and the most of anything in a layer; the published networks have up to two.
/// All layers are built before the weight file is seen not to have them.
const MOST_LAYERS: usize = 8;

/// Returns an error about a field unless `holds`.
pub(crate) fn check(
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// Returns the error about the published configuration with other values.
    fn refusal<T>(published: &str, changes: &Value, parse: fn(&str) -> Result<T, ConfigError>) -> String {
        let mut config: Value = serde_json::from_str(published).unwrap();
        for (field, value) in changes.as_object().unwrap() {
            config[field] = value.clone();
        }
        parse(&config.to_string())
            .err()
            .map_or_else(String::new, |error| error.to_string())
    }

    #[test]
    fn sizes_that_no_network_has_are_refused_by_their_field() {
        let huge = 1_u64 << 40;
        let blocks = json!({
            "block_out_channels": vec![320; 70], "down_block_types": vec!["DownBlock3D"; 70],
            "up_block_types": vec!["UpBlock3D"; 70],
        });
        for (field, changes) in [
            ("block_out_channels", json!({"block_out_channels": vec![huge; 4]})),
            ("block_out_channels", blocks),
            ("layers_per_block", json!({"layers_per_block": huge})),
            ("cross_attention_dim", json!({"cross_attention_dim": huge})),
        ] {
            let refused = refusal(UNetConfig::PUBLISHED, &changes, UNetConfig::from_json);
            assert!(refused.contains(field), "{field}: {refused}");
        }
        for (field, value) in [
            ("num_transformer_block", json!(huge)),
            ("attention_block_types", json!(vec!["Temporal_Self"; 100])),
            ("temporal_position_encoding_max_len", json!(huge)),
        ] {
            let mut config: Value = serde_json::from_str(UNetConfig::PUBLISHED).unwrap();
            config["motion_module_kwargs"][field] = value;
            let refused = UNetConfig::from_json(&config.to_string())
                .unwrap_err()
                .to_string();
            assert!(refused.contains(field), "{field}: {refused}");
        }
        for (field, changes) in [
            ("block_out_channels", json!({"block_out_channels": vec![huge; 4]})),
            ("layers_per_block", json!({"layers_per_block": huge})),
        ] {
            let refused = refusal(VaeConfig::PUBLISHED, &changes, VaeConfig::from_json);
            assert!(refused.contains(field), "{field}: {refused}");
        }
        let tiny =
            r#"{"n_mels":80,"n_audio_ctx":1500,"n_audio_state":384,"n_audio_head":6,"n_audio_layer":4}"#;
        assert!(WhisperDims::from_json(tiny).is_ok());
        for (field, changes) in [
            ("n_audio_state", json!({"n_audio_state": huge, "n_audio_head": 1})),
            ("n_audio_layer", json!({"n_audio_layer": huge})),
        ] {
            let refused = refusal(tiny, &changes, WhisperDims::from_json);
            assert!(refused.contains(field), "{field}: {refused}");
        }
    }
}
