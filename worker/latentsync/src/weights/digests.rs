//! Digests of weight files, kept beside them so that gigabytes are not read at every start.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use latentfarm_common::digest::Digest;
use serde::{Deserialize, Serialize};

use super::WeightsError;
use super::note::write_json;

const CACHE_FILE: &str = ".latentfarm-digests.json";

/// A digest holds as long as the file has this size and time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    bytes: u64,
    modified_ns: u64,
    sha256: String,
}

/// What is known of the files in a folder.
pub(super) struct Digests {
    dir: PathBuf,
    /// By path relative to the folder.
    entries: BTreeMap<String, Entry>,
    changed: bool,
}

impl Digests {
    pub(super) fn read(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            entries: fs::read(dir.join(CACHE_FILE))
                .ok()
                .and_then(|bytes| serde_json::from_slice(&bytes).ok())
                .unwrap_or_default(),
            changed: false,
        }
    }

    /// A file's digest, read only if it is not known.
    pub(super) fn of_file(&mut self, path: &Path) -> Result<Digest, WeightsError> {
        match self.known(path)? {
            Some(digest) => Ok(digest),
            None => self.read_file(path),
        }
    }

    /// What a file's digest was when it had its present size and time, if it was ever read.
    pub(super) fn known(&self, path: &Path) -> Result<Option<Digest>, WeightsError> {
        let (bytes, modified_ns) = stamp(path)?;
        Ok(self
            .entries
            .get(&self.name(path))
            .filter(|entry| (entry.bytes, entry.modified_ns) == (bytes, modified_ns))
            .and_then(|entry| entry.sha256.parse().ok()))
    }

    /// A file's digest, read anew.
    pub(super) fn read_file(&mut self, path: &Path) -> Result<Digest, WeightsError> {
        let (_, modified_ns) = stamp(path)?;
        let (digest, bytes) = Digest::of_file(path).map_err(|source| unreadable(path, source))?;
        self.entries.insert(
            self.name(path),
            Entry {
                bytes,
                modified_ns,
                sha256: digest.to_string(),
            },
        );
        self.changed = true;
        Ok(digest)
    }

    /// Best effort: a folder that cannot be written costs time at the next start, nothing else.
    pub(super) fn keep(self) {
        if !self.changed {
            return;
        }
        let kept = write_json(&self.dir.join(CACHE_FILE), &serde_json::json!(self.entries));
        if let Err(error) = kept {
            tracing::debug!(dir = %self.dir.display(), %error, "digests of the weights are not kept");
        }
    }

    fn name(&self, path: &Path) -> String {
        path.strip_prefix(&self.dir)
            .unwrap_or(path)
            .to_string_lossy()
            .into_owned()
    }
}

/// Size and time of change.
fn stamp(path: &Path) -> Result<(u64, u64), WeightsError> {
    let metadata = fs::metadata(path).map_err(|source| unreadable(path, source))?;
    let modified = metadata
        .modified()
        .map_err(|source| unreadable(path, source))?
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Ok((
        metadata.len(),
        u64::try_from(modified.as_nanos()).unwrap_or(u64::MAX),
    ))
}

fn unreadable(path: &Path, source: std::io::Error) -> WeightsError {
    WeightsError::Io {
        path: path.to_owned(),
        source,
    }
}
