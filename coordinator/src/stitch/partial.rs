//! The temporary file that becomes the output. It is in the output's folder, and so on the same file system,
//! so that a rename is enough.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// A guard that removes the temporary file when dropped, unless it was renamed.
#[must_use = "dropping the guard removes the file"]
#[derive(Debug)]
pub(super) struct PartialFile {
    path: PathBuf,
}

impl PartialFile {
    /// Names the file `.NAME.partial-PID` in the folder of `output`, and creates nothing yet.
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

    /// Renames the file to `output`. The new name survives a power cut once this returns.
    pub(super) fn rename_to(self, output: &Path) -> io::Result<()> {
        fs::rename(&self.path, output)?;
        File::open(folder_of(output))?.sync_all()
    }
}

impl Drop for PartialFile {
    fn drop(&mut self) {
        match fs::remove_file(&self.path) {
            Ok(()) => {}
            // The file was renamed or never created.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!(path = %self.path.display(), %error, "cannot remove the temporary output file");
            }
        }
    }
}

/// Returns the folder of `path`, which is the current folder for a bare name.
pub(super) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}
