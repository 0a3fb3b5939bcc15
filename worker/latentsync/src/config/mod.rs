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

/// Returns an error about a field unless `holds`.
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
