//! The path of the final file. `cli` checks it before any work starts, because a render may take hours.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use latentfarm_common::error::FileError;
use latentfarm_common::media::Container;

use super::partial::{PartialFile, folder_of};

/// The reason for which the output cannot be written, with what the user can do about it.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    #[error("cannot write `{}`: the name must end in .mp4 or .mkv", path.display())]
    UnknownContainer { path: PathBuf },
    #[error("cannot write `{}`: the name must be valid UTF-8", path.display())]
    NotUtf8 { path: PathBuf },
    #[error("cannot write `{}`: the folder `{}` does not exist; create it first", path.display(), folder.display())]
    NoFolder { path: PathBuf, folder: PathBuf },
    #[error("cannot write `{}`: `{}` is not a folder", path.display(), folder.display())]
    ParentIsFile { path: PathBuf, folder: PathBuf },
    #[error("cannot write `{}`: it is a folder; give the name of a file", path.display())]
    IsFolder { path: PathBuf },
    #[error("cannot write `{}`: it is the same file as the input `{}`; give another name", path.display(), input.display())]
    IsInput { path: PathBuf, input: PathBuf },
    #[error("`{}` exists already; give another name, or --force to replace it", path.display())]
    Exists { path: PathBuf },
    #[error("cannot create a file in `{}`; check its permissions and free space", folder.display())]
    NotWritable {
        folder: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Metadata(#[from] FileError),
}

/// A path to which the final file can be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputTarget {
    path: PathBuf,
    container: Container,
    force: bool,
}

impl OutputTarget {
    /// Checks that the path is none of `inputs`, the name, the folder (by creating a file in it and removing it again) and,
    /// unless `force`, that nothing is there yet.
    pub fn check(path: &Path, inputs: &[&Path], force: bool) -> Result<Self, OutputError> {
        let here = || path.to_owned();
        if let Some(input) = inputs.iter().find(|input| is_same_file(path, input)) {
            return Err(OutputError::IsInput {
                path: here(),
                input: (*input).to_owned(),
            });
        }
        if path.to_str().is_none() {
            return Err(OutputError::NotUtf8 { path: here() });
        }
        if path.is_dir() {
            return Err(OutputError::IsFolder { path: here() });
        }
        let container =
            Container::from_path(path).ok_or_else(|| OutputError::UnknownContainer { path: here() })?;
        let folder = folder_of(path).to_owned();
        match fs::metadata(&folder) {
            Ok(found) if found.is_dir() => {}
            Ok(_) => return Err(OutputError::ParentIsFile { path: here(), folder }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(OutputError::NoFolder { path: here(), folder });
            }
            Err(error) => return Err(FileError::at("read the metadata of", &folder)(error).into()),
        }
        let target = Self {
            path: here(),
            container,
            force,
        };
        target.check_free()?;
        // The trial file has the same name as the later temporary file, which may be too long for the file
        // system.
        let trial = PartialFile::beside(path);
        match File::create(trial.path()) {
            Ok(_) => Ok(target),
            Err(source) => Err(OutputError::NotWritable { folder, source }),
        }
    }

    /// Removes the temporary file of this process, whose writer was given up.
    pub fn remove_partial(&self) {
        drop(PartialFile::beside(&self.path));
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn container(&self) -> Container {
        self.container
    }

    /// Checks that the file may be created or replaced. It is called again before the rename, hours later.
    pub(super) fn check_free(&self) -> Result<(), OutputError> {
        let path = self.path.clone();
        match fs::symlink_metadata(&self.path) {
            Ok(found) if found.is_dir() => Err(OutputError::IsFolder { path }),
            Ok(_) if !self.force => Err(OutputError::Exists { path }),
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(FileError::at("read the metadata of", &path)(error).into()),
        }
    }
}

/// Whether two paths lead to one file, also by way of symbolic and hard links.
fn is_same_file(one: &Path, other: &Path) -> bool {
    let identity = |path: &Path| fs::metadata(path).map(|found| (found.dev(), found.ino())).ok();
    identity(one).is_some_and(|id| identity(other) == Some(id))
}
