//! A file of named tensors, in either of the formats in which models are published: safetensors, or a torch
//! pickle.

use std::path::Path;
use std::sync::Arc;

use candle_core::Tensor;
use memmap2::Mmap;

use super::error::WeightsError;
use super::mapped::{MappedFile, MappedTensor};
use super::torch::TorchFile;

/// A weight file that is open for reading.
pub(crate) struct TensorFile {
    format: FileFormat,
}

enum FileFormat {
    Safetensors(MappedFile),
    Torch(TorchFile),
    /// There is no file, as [`TensorFile::empty`] explains.
    Empty,
}

impl TensorFile {
    /// Opens a file; the extension `safetensors` selects that format, any other the torch pickle.
    pub(crate) fn open(path: &Path) -> Result<Self, WeightsError> {
        let unreadable = WeightsError::read(path);
        let is_safetensors = path
            .extension()
            .is_some_and(|extension| extension == "safetensors");
        let format = if is_safetensors {
            FileFormat::Safetensors(MappedFile::open(path).map_err(unreadable)?)
        } else {
            FileFormat::Torch(TorchFile::open(path).map_err(unreadable)?)
        };
        Ok(Self { format })
    }

    /// Returns a file without tensors. A network that is built from it requests all of its tensors, which
    /// gives their list.
    pub(crate) fn empty() -> Self {
        Self {
            format: FileFormat::Empty,
        }
    }

    /// Returns the names of all tensors, sorted.
    pub(crate) fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = match &self.format {
            FileFormat::Safetensors(file) => file.names().cloned().collect(),
            FileFormat::Torch(file) => file.names().cloned().collect(),
            FileFormat::Empty => Vec::new(),
        };
        names.sort_unstable();
        names
    }

    /// Returns whether the file has a tensor of this name.
    pub(crate) fn contains(&self, name: &str) -> bool {
        match &self.format {
            FileFormat::Safetensors(file) => file.shape(name).is_some(),
            FileFormat::Torch(file) => file.shape(name).is_some(),
            FileFormat::Empty => false,
        }
    }

    /// Returns the shape of a tensor without reading it.
    pub(crate) fn shape(&self, name: &str) -> Option<Vec<usize>> {
        match &self.format {
            FileFormat::Safetensors(file) => file.shape(name).map(<[usize]>::to_vec),
            FileFormat::Torch(file) => file.shape(name).map(<[usize]>::to_vec),
            FileFormat::Empty => None,
        }
    }

    /// Returns a number from the dictionary `dims`, which torch files of Whisper have beside the tensors.
    pub(crate) fn dim(&self, name: &str) -> Option<usize> {
        match &self.format {
            FileFormat::Torch(file) => file.dim(name),
            FileFormat::Safetensors(_) | FileFormat::Empty => None,
        }
    }

    /// Reads a tensor in its stored type, onto the host.
    pub(crate) fn load(&self, name: &str) -> candle_core::Result<Option<Tensor>> {
        match &self.format {
            FileFormat::Safetensors(file) => file.copy(name),
            FileFormat::Torch(file) => file.load(name),
            FileFormat::Empty => Ok(None),
        }
    }

    /// Returns the memory map of the whole file, or `None` if the format does not allow mapping.
    pub(crate) fn map(&self) -> Option<Arc<Mmap>> {
        match &self.format {
            FileFormat::Safetensors(file) => Some(file.map()),
            FileFormat::Torch(_) | FileFormat::Empty => None,
        }
    }

    /// Returns the bytes of a value in a mapped file. Its largest tensor stands for all; a file that is not
    /// mapped gives `None`.
    pub(crate) fn bytes_per_value(&self) -> Option<usize> {
        match &self.format {
            FileFormat::Safetensors(file) => file.bytes_per_value(),
            FileFormat::Torch(_) | FileFormat::Empty => None,
        }
    }

    /// Returns a tensor that is used where it lies in the file, or `None` if its format or alignment does not
    /// allow that.
    pub(crate) fn mapped(&self, name: &str) -> Option<MappedTensor> {
        match &self.format {
            FileFormat::Safetensors(file) => file.tensor(name),
            FileFormat::Torch(_) | FileFormat::Empty => None,
        }
    }
}

/// Returns the names and shapes of the tensors in a weight file, sorted by name.
///
/// # Errors
/// [`WeightsError::Read`] if the file cannot be read.
pub fn list_tensors(path: &Path) -> Result<Vec<(String, Vec<usize>)>, WeightsError> {
    let file = TensorFile::open(path)?;
    let shaped = file.names().into_iter().map(|name| {
        let shape = file.shape(&name).unwrap_or_default();
        (name, shape)
    });
    Ok(shaped.collect())
}

/// Reads one tensor of a weight file in its stored type, onto the host.
///
/// # Errors
/// [`WeightsError::Read`] if the file cannot be read, [`WeightsError::Mismatch`] if it has no such tensor.
pub fn read_tensor(path: &Path, name: &str) -> Result<Tensor, WeightsError> {
    let loaded = TensorFile::open(path)?
        .load(name)
        .map_err(WeightsError::read(path))?;
    loaded.ok_or_else(|| WeightsError::mismatch(path, format!("1 missing: {name}")))
}
