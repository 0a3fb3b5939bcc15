//! Folders and files that only their owner may read.

use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use super::error::ServerError;

/// Creates a folder and its parents, unless it exists.
pub(super) fn create_folder(path: &Path) -> Result<(), ServerError> {
    let created = DirBuilder::new().recursive(true).mode(0o700).create(path);
    created.map_err(ServerError::files("create directory", path))
}

/// Opens a file that is only locked, and creates it if it does not exist.
pub(super) fn lock_file(path: &Path) -> Result<File, ServerError> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path);
    file.map_err(ServerError::files("open", path))
}

/// Creates a file, or empties it if it exists.
pub(super) fn create_file(path: &Path) -> Result<File, ServerError> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(path);
    file.map_err(ServerError::files("create", path))
}
