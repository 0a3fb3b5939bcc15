//! Verifies a folder of weights file by file: the digest, the names and shapes of the tensors, and every
//! value. `latentfarm-worker weights verify` runs it.

use std::path::Path;

use latentfarm_common::digest::Digest;

use super::digest_cache::DigestCache;
use super::files::{CheckpointFiles, Network};
use crate::finite::is_finite;
use crate::tensors::{TensorFile, WeightsError};

/// The result of comparing a file's digest with an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DigestCheck {
    /// The digest is the one that was recorded when the file was made or pulled.
    MatchesRecord,
    /// The digest is the one of the file's first use on this machine; none was recorded when the file was
    /// made.
    MatchesFirstUse,
    /// There is no earlier digest to compare with.
    NotRecorded,
    /// The digest differs from the earlier one.
    Mismatch {
        /// The digest that was recorded or cached earlier.
        expected: Digest,
        /// The digest of the file as it is.
        found: Digest,
    },
}

/// The result of verifying one file.
#[derive(Clone, Debug)]
pub struct FileCheck {
    /// The path of the file in the folder.
    pub name: String,
    /// The size of the file in bytes.
    pub bytes: u64,
    /// The number of tensors that the network uses.
    pub tensors: usize,
    /// The result of comparing the digest.
    pub digest: DigestCheck,
    /// The error in the tensors with its causes, or `None` if they are good.
    pub problem: Option<String>,
}

impl FileCheck {
    /// Returns whether neither the digest nor the tensors are wrong.
    pub fn is_good(&self) -> bool {
        self.problem.is_none() && !matches!(self.digest, DigestCheck::Mismatch { .. })
    }
}

/// Verifies the weight files of a folder. Every file is read twice: once for its digest, and once tensor by
/// tensor, with one tensor in memory at a time. `progress` is called with the numbers of bytes that were
/// read, in all twice [`super::Checkpoint::bytes`].
///
/// # Errors
/// Fails if a file is missing or a configuration cannot be used. What is wrong inside the weight files is in
/// the results, one for each file.
pub fn verify(
    dir: &Path,
    progress: &mut dyn FnMut(u64),
) -> std::result::Result<Vec<FileCheck>, WeightsError> {
    let files = CheckpointFiles::in_dir(dir)?;
    let mut digests = DigestCache::read(dir);
    let mut checks = Vec::new();
    for (network, path) in files.weight_files() {
        let name = path
            .strip_prefix(dir)
            .unwrap_or(path)
            .to_string_lossy()
            .into_owned();
        let first_used = digests.known(path)?;
        let recorded = files
            .metadata
            .files
            .get(&name)
            .and_then(|record| record.sha256.parse().ok());
        let read = digests.read_file(path)?;
        let digest = match (recorded, first_used) {
            (Some(expected), _) | (None, Some(expected)) if expected != read => DigestCheck::Mismatch {
                expected,
                found: read,
            },
            (Some(_), _) => DigestCheck::MatchesRecord,
            (None, Some(_)) => DigestCheck::MatchesFirstUse,
            (None, None) => DigestCheck::NotRecorded,
        };
        let bytes = std::fs::metadata(path).map_or(0, |metadata| metadata.len());
        progress(bytes);
        let checked = files
            .check(network)
            .and_then(|_values| read_all(network, path, progress));
        let (tensors, problem) = match checked {
            Ok(tensors) => (tensors, None),
            Err(error) => (0, Some(latentfarm_common::error::one_line(&error))),
        };
        checks.push(FileCheck {
            name,
            bytes,
            tensors,
            digest,
            problem,
        });
    }
    // A wrong digest must not be cached: it would become the one that later checks compare with.
    if checks.iter().all(FileCheck::is_good) {
        digests.save();
    }
    Ok(checks)
}

/// Reads all tensors of a network and returns their number.
///
/// # Errors
/// [`WeightsError::Mismatch`] names the first tensor with a value that is infinite or NaN.
fn read_all(
    network: Network,
    path: &Path,
    progress: &mut dyn FnMut(u64),
) -> std::result::Result<usize, WeightsError> {
    let unreadable = WeightsError::read(path);
    let file = TensorFile::open(path)?;
    let mut tensors = 0;
    for name in file
        .names()
        .iter()
        .filter(|name| name.starts_with(network.prefix()))
    {
        let tensor = file.load(name).map_err(unreadable)?;
        let tensor = tensor.ok_or_else(|| WeightsError::mismatch(path, format!("1 missing: {name}")))?;
        if !is_finite(&tensor).map_err(unreadable)? {
            let report = format!("{name} holds a value that is not a finite number");
            return Err(WeightsError::mismatch(path, report));
        }
        tensors += 1;
        progress((tensor.elem_count() * tensor.dtype().size_in_bytes()) as u64);
    }
    Ok(tensors)
}
