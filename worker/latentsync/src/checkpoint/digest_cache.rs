//! The digests of weight files, kept beside them so that gigabytes are not read at every start.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use latentfarm_common::digest::Digest;
use serde::{Deserialize, Serialize};

use super::text::write_json;
use crate::tensors::WeightsError;

/// The name of the cache in a folder of weights.
const CACHE_FILE: &str = ".latentfarm-digests.json";

/// A cached digest, which is valid as long as the file has this size and this modification time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct CachedDigest {
    bytes: u64,
    modified_ns: u64,
    sha256: String,
}

/// The cached digests of the files in a folder.
pub(super) struct DigestCache {
    dir: PathBuf,
    /// The digests by the files' paths in the folder.
    entries: BTreeMap<String, CachedDigest>,
    changed: bool,
}

impl DigestCache {
    /// Reads the cache of a folder. A cache that is missing or damaged is the same as an empty one.
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

    /// Returns the digest of a file, which is read only if the digest is not cached.
    pub(super) fn of_file(&mut self, path: &Path) -> Result<Digest, WeightsError> {
        match self.known(path)? {
            Some(digest) => Ok(digest),
            None => self.read_file(path),
        }
    }

    /// Returns the cached digest of a file if the file still has the size and the modification time of then.
    pub(super) fn known(&self, path: &Path) -> Result<Option<Digest>, WeightsError> {
        let (bytes, modified_ns) = stamp(path)?;
        Ok(self
            .entries
            .get(&self.name(path))
            .filter(|entry| (entry.bytes, entry.modified_ns) == (bytes, modified_ns))
            .and_then(|entry| entry.sha256.parse().ok()))
    }

    /// Reads a file, and returns and caches its digest.
    pub(super) fn read_file(&mut self, path: &Path) -> Result<Digest, WeightsError> {
        let (_, modified_ns) = stamp(path)?;
        let (digest, bytes) = Digest::of_file(path).map_err(WeightsError::io(path))?;
        self.entries.insert(
            self.name(path),
            CachedDigest {
                bytes,
                modified_ns,
                sha256: digest.to_string(),
            },
        );
        self.changed = true;
        Ok(digest)
    }

    /// Writes the cache if it changed. An error is only logged: if the folder is not writable, the next start
    /// computes the digests again.
    pub(super) fn save(self) {
        if !self.changed {
            return;
        }
        let written = write_json(&self.dir.join(CACHE_FILE), &serde_json::json!(self.entries));
        if let Err(error) = written {
            tracing::debug!(dir = %self.dir.display(), %error, "cannot cache the digests of the weights");
        }
    }

    fn name(&self, path: &Path) -> String {
        path.strip_prefix(&self.dir)
            .unwrap_or(path)
            .to_string_lossy()
            .into_owned()
    }
}

/// Returns the size of a file in bytes and its modification time in nanoseconds since 1970.
fn stamp(path: &Path) -> Result<(u64, u64), WeightsError> {
    let metadata = fs::metadata(path).map_err(WeightsError::io(path))?;
    let modified = metadata
        .modified()
        .map_err(WeightsError::io(path))?
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Ok((
        metadata.len(),
        u64::try_from(modified.as_nanos()).unwrap_or(u64::MAX),
    ))
}
