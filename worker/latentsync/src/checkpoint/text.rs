//! Reads and writes the small text files of a checkpoint folder.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::{Value, json};

use crate::config::WhisperDims;
use crate::tensors::WeightsError;

/// Reads the text of a file; `None` if there is no such file.
pub(super) fn read_text(path: &Path) -> Result<Option<String>, WeightsError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(WeightsError::io(path)(error)),
    }
}

/// Writes a JSON value with line breaks and indentation.
pub(super) fn write_json(path: &Path, value: &Value) -> Result<(), WeightsError> {
    write_text(path, &format!("{value:#}\n"))
}

/// Writes a text under a temporary name and then renames it, so that a reader finds either the old text or
/// the new one.
pub(super) fn write_text(path: &Path, text: &str) -> Result<(), WeightsError> {
    let dir = path.parent().unwrap_or(Path::new("."));
    // Several workers may write the same file at once, so that each needs a temporary name of its own.
    tempfile::Builder::new()
        .permissions(fs::Permissions::from_mode(0o644))
        .tempfile_in(dir)
        .and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.persist(path).map_err(std::io::Error::from)
        })
        .map(drop)
        .map_err(|error| WeightsError::write(path)(error.into()))
}

/// Returns the dimensions of a Whisper encoder in the form of the file beside its weights.
pub(super) fn dims_json(dims: WhisperDims) -> Value {
    json!({
        "n_mels": dims.n_mels,
        "n_audio_ctx": dims.n_audio_ctx,
        "n_audio_state": dims.n_audio_state,
        "n_audio_head": dims.n_audio_head,
        "n_audio_layer": dims.n_audio_layer,
    })
}
