//! The file `watch.json` in a job folder, by which `latentfarm top` finds the private server of a render on
//! this machine: the server's address and an observer's key. Only the user who runs the render can read the
//! file.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use latentfarm_common::error::FileError;
use latentfarm_common::nats::Identity;
use serde::{Deserialize, Serialize};

const FILE_NAME: &str = "watch.json";

/// The server's URL, and the seed of an nkey that permits reading only.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchFile {
    pub url: String,
    pub nkey_seed: String,
}

#[derive(Debug, thiserror::Error)]
pub enum WatchFileError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("cannot parse `{}`: it was not written by a render", path.display())]
    Parse {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
}

impl WatchFile {
    /// Returns `None` if the observer has no key: then the server admits everybody.
    pub fn new(url: String, observer: &Identity) -> Option<Self> {
        let nkey_seed = observer.nkey_seed.clone()?;
        Some(Self { url, nkey_seed })
    }

    pub fn write(&self, folder: &Path) -> Result<(), FileError> {
        let path = folder.join(FILE_NAME);
        let text = serde_json::json!(self).to_string();
        // An older file may have other permissions.
        let _absent = fs::remove_file(&path);
        fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .map_err(FileError::at("write", &path))
    }

    pub fn read(folder: &Path) -> Result<Self, WatchFileError> {
        let path = folder.join(FILE_NAME);
        let text = fs::read_to_string(&path).map_err(FileError::at("read", &path))?;
        serde_json::from_str(&text).map_err(|source| WatchFileError::Parse { path, source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn what_is_written_is_read_and_only_by_its_owner() {
        let folder = tempfile::tempdir().unwrap();
        let watch = |url: &str| WatchFile {
            url: url.to_owned(),
            nkey_seed: "SU123".to_owned(),
        };
        fs::write(folder.path().join(FILE_NAME), "old").unwrap();
        watch("nats://127.0.0.1:1").write(folder.path()).unwrap();
        assert!(WatchFile::read(folder.path()).unwrap() == watch("nats://127.0.0.1:1"));
        let mode = fs::metadata(folder.path().join(FILE_NAME))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
