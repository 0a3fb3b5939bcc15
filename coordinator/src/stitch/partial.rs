//! The temporary file beside the output: on the same file system, so that a rename is enough.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// Removes the file when dropped, unless it was renamed.
#[must_use = "dropping the guard removes the file"]
#[derive(Debug)]
pub(super) struct PartialFile {
    path: PathBuf,
}

impl PartialFile {
    /// `.NAME.partial-PID` in the folder of `output`; nothing is created yet.
    pub(super) fn beside(output: &Path) -> Self {
        let mut name = OsString::from(".");
        name.push(output.file_name().unwrap_or_default());
        name.push(format!(".partial-{}", std::process::id()));
        Self {
            path: folder_of(output).join(name),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Gives the file its name, for good once this returns.
    pub(super) fn rename_to(self, output: &Path) -> io::Result<()> {
        fs::rename(&self.path, output)?;
        File::open(folder_of(output))?.sync_all()
    }
}

impl Drop for PartialFile {
    fn drop(&mut self) {
        match fs::remove_file(&self.path) {
            Ok(()) => {}
            // Renamed, or never created.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!(path = %self.path.display(), %error, "cannot remove a temporary file");
            }
        }
    }
}

/// The folder that holds `path`; the current one for a bare name.
pub(super) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}
