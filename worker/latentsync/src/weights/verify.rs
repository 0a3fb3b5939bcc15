//! Checks a folder of weights file by file: digest, names, shapes, and every value.

use std::path::Path;

use candle_core::{DType, Result, Tensor};
use latentfarm_common::digest::Digest;

use super::digests::Digests;
use super::find::{Found, Part};
use super::{TensorFile, WeightsError};

/// What a file's digest says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DigestVerdict {
    /// As noted when the file was made or pulled.
    AsMade,
    /// As when the file was first used here; nobody noted what it should be.
    AsFirstUsed,
    /// Nothing is known to compare it with.
    Unknown,
    Wrong {
        expected: Digest,
        found: Digest,
    },
}

/// The result for one file.
#[derive(Clone, Debug)]
pub struct FileVerdict {
    /// Path in the folder.
    pub name: String,
    pub bytes: u64,
    /// Tensors that the network uses.
    pub tensors: usize,
    pub digest: DigestVerdict,
    /// What is wrong with the tensors, with its causes.
    pub problem: Option<String>,
}

impl FileVerdict {
    pub fn is_good(&self) -> bool {
        self.problem.is_none() && !matches!(self.digest, DigestVerdict::Wrong { .. })
    }
}

/// Reads every weight file of a folder twice: for its digest, and tensor by tensor, one in memory at a time.
/// `progress` hears of the bytes that have been gone through, twice [`super::Checkpoint::bytes`] in all.
///
/// # Errors
/// Where a file is missing or a configuration cannot be used; what is wrong inside the weight files is told in
/// the verdicts, one for each file.
pub fn verify(
    dir: &Path,
    progress: &mut dyn FnMut(u64),
) -> std::result::Result<Vec<FileVerdict>, WeightsError> {
    let found = Found::in_dir(dir)?;
    let mut digests = Digests::read(dir);
    let mut verdicts = Vec::new();
    for (part, path) in found.files() {
        let name = path
            .strip_prefix(dir)
            .unwrap_or(path)
            .to_string_lossy()
            .into_owned();
        let first_used = digests.known(path)?;
        let noted = found
            .note
            .files
            .get(&name)
            .and_then(|record| record.sha256.parse().ok());
        let read = digests.read_file(path)?;
        let digest = match (noted, first_used) {
            (Some(expected), _) | (None, Some(expected)) if expected != read => DigestVerdict::Wrong {
                expected,
                found: read,
            },
            (Some(_), _) => DigestVerdict::AsMade,
            (None, Some(_)) => DigestVerdict::AsFirstUsed,
            (None, None) => DigestVerdict::Unknown,
        };
        let bytes = std::fs::metadata(path).map_or(0, |metadata| metadata.len());
        progress(bytes);
        let checked = found
            .check(part)
            .and_then(|_values| read_all(part, path, progress));
        let (tensors, problem) = match checked {
            Ok(tensors) => (tensors, None),
            Err(error) => (0, Some(latentfarm_common::error::one_line(&error))),
        };
        verdicts.push(FileVerdict {
            name,
            bytes,
            tensors,
            digest,
            problem,
        });
    }
    // A wrong digest must not become the one to compare with.
    if verdicts.iter().all(FileVerdict::is_good) {
        digests.keep();
    }
    Ok(verdicts)
}

/// Number of tensors of a network, all of which could be read and are finite.
fn read_all(
    part: Part,
    path: &Path,
    progress: &mut dyn FnMut(u64),
) -> std::result::Result<usize, WeightsError> {
    let unreadable = |source| WeightsError::Read {
        path: path.to_owned(),
        source,
    };
    let file = TensorFile::open(path)?;
    let mut tensors = 0;
    for name in file.names().iter().filter(|name| name.starts_with(part.prefix())) {
        let tensor = file.load(name).map_err(unreadable)?;
        let tensor = tensor.ok_or_else(|| super::mismatch(path, format!("1 missing: {name}")))?;
        if !is_finite(&tensor).map_err(unreadable)? {
            let report = format!("{name} holds a value that is not a finite number");
            return Err(super::mismatch(path, report));
        }
        tensors += 1;
        progress((tensor.elem_count() * tensor.dtype().size_in_bytes()) as u64);
    }
    Ok(tensors)
}

fn is_finite(tensor: &Tensor) -> Result<bool> {
    let values = tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
    Ok(values.iter().all(|value| value.is_finite()))
}
