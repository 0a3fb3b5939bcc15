//! Digests of weight files, kept beside them so that gigabytes are not read at every start.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use latentfarm_common::digest::Digest;
use serde::{Deserialize, Serialize};

use super::WeightsError;

const CACHE_FILE: &str = ".latentfarm-digests.json";

/// A digest holds as long as the file has this size and time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    bytes: u64,
    modified_ns: u64,
    sha256: String,
}

/// Digests of the files, in the order given. Names are relative to `dir`.
pub(super) fn of_files(dir: &Path, files: &[&PathBuf]) -> Result<Vec<Digest>, WeightsError> {
    let cache_path = dir.join(CACHE_FILE);
    let mut cache: BTreeMap<String, Entry> = fs::read(&cache_path)
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_default();
    let mut digests = Vec::with_capacity(files.len());
    let mut changed = false;
    for path in files {
        let failed = |source| WeightsError::Io {
            path: (*path).clone(),
            source,
        };
        let name = path
            .strip_prefix(dir)
            .unwrap_or(path)
            .to_string_lossy()
            .into_owned();
        let metadata = fs::metadata(path).map_err(failed)?;
        let modified = metadata
            .modified()
            .map_err(failed)?
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let modified_ns = u64::try_from(modified.as_nanos()).unwrap_or(u64::MAX);
        let known = cache
            .get(&name)
            .filter(|entry| (entry.bytes, entry.modified_ns) == (metadata.len(), modified_ns))
            .and_then(|entry| entry.sha256.parse().ok());
        if let Some(digest) = known {
            digests.push(digest);
            continue;
        }
        let (digest, bytes) = Digest::of_file(path).map_err(failed)?;
        let sha256 = digest.to_string();
        cache.insert(
            name,
            Entry {
                bytes,
                modified_ns,
                sha256,
            },
        );
        changed = true;
        digests.push(digest);
    }
    if changed {
        store(dir, &cache_path, &cache);
    }
    Ok(digests)
}

/// Best effort: a folder that cannot be written costs time at the next start, nothing else.
fn store(dir: &Path, cache_path: &Path, cache: &BTreeMap<String, Entry>) {
    let written = tempfile::NamedTempFile::new_in(dir).and_then(|mut file| {
        serde_json::to_writer_pretty(&mut file, cache)?;
        file.persist(cache_path).map_err(std::io::Error::from)
    });
    if let Err(error) = written {
        tracing::debug!(dir = %dir.display(), %error, "digests of the weights are not kept");
    }
}
