//! Small text files of a checkpoint folder.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::{Value, json};

use crate::config::{ConfigError, WhisperDims};
use crate::tensors::WeightsError;

pub(super) fn parse<T>(path: &Path, parsed: Result<T, ConfigError>) -> Result<T, WeightsError> {
    parsed.map_err(|source| WeightsError::Config {
        path: path.to_owned(),
        source,
    })
}

/// The text of a file, `None` where there is none.
pub(super) fn read_text(path: &Path) -> Result<Option<String>, WeightsError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(WeightsError::Io {
            path: path.to_owned(),
            source,
        }),
    }
}

pub(super) fn write_json(path: &Path, value: &Value) -> Result<(), WeightsError> {
    write_text(path, &format!("{value:#}\n"))
}

/// Writes under another name first: whoever reads finds the old text or the new.
pub(super) fn write_text(path: &Path, text: &str) -> Result<(), WeightsError> {
    let dir = path.parent().unwrap_or(Path::new("."));
    // Several workers may write the same file at once, so the name is a new one for each.
    tempfile::Builder::new()
        .permissions(fs::Permissions::from_mode(0o644))
        .tempfile_in(dir)
        .and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.persist(path).map_err(std::io::Error::from)
        })
        .map(drop)
        .map_err(|source| WeightsError::Write {
            path: path.to_owned(),
            source: source.into(),
        })
}

/// The sizes of a Whisper encoder as they stand beside its weights.
pub(super) fn dims_json(dims: WhisperDims) -> Value {
    json!({
        "n_mels": dims.n_mels,
        "n_audio_ctx": dims.n_audio_ctx,
        "n_audio_state": dims.n_audio_state,
        "n_audio_head": dims.n_audio_head,
        "n_audio_layer": dims.n_audio_layer,
    })
}
