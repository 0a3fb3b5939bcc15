//! One file of named tensors: safetensors, or a torch pickle as published.

use std::path::Path;
use std::sync::Arc;

use candle_core::Tensor;
use candle_core::pickle::PthTensors;
use memmap2::Mmap;

use super::WeightsError;
use super::mapped::{MappedFile, MappedTensor};

pub(crate) struct TensorFile {
    kind: Kind,
}

enum Kind {
    Safetensors(MappedFile),
    Pickle(PthTensors),
    /// No file at all: see [`TensorFile::nothing`].
    Nothing,
}

/// Dictionaries that published torch files keep their tensors in; a bare one has none.
const STATE_KEYS: [Option<&str>; 3] = [Some("state_dict"), Some("model_state_dict"), None];

impl TensorFile {
    pub(crate) fn open(path: &Path) -> Result<Self, WeightsError> {
        let unreadable = |source| WeightsError::Read {
            path: path.to_owned(),
            source,
        };
        let is_safetensors = path
            .extension()
            .is_some_and(|extension| extension == "safetensors");
        let kind = if is_safetensors {
            Kind::Safetensors(MappedFile::open(path).map_err(unreadable)?)
        } else {
            let mut opened = PthTensors::new(path, STATE_KEYS[0]);
            for key in &STATE_KEYS[1..] {
                if !opened
                    .as_ref()
                    .is_ok_and(|tensors| !tensors.tensor_infos().is_empty())
                {
                    opened = PthTensors::new(path, *key);
                }
            }
            Kind::Pickle(opened.map_err(unreadable)?)
        };
        Ok(Self { kind })
    }

    /// A file without tensors. What a model asks it for is the list of tensors that the model has.
    pub(crate) fn nothing() -> Self {
        Self { kind: Kind::Nothing }
    }

    /// Names of all tensors, sorted.
    pub(crate) fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = match &self.kind {
            Kind::Safetensors(file) => file.names().cloned().collect(),
            Kind::Pickle(file) => file.tensor_infos().keys().cloned().collect(),
            Kind::Nothing => Vec::new(),
        };
        names.sort_unstable();
        names
    }

    pub(crate) fn contains(&self, name: &str) -> bool {
        match &self.kind {
            Kind::Safetensors(file) => file.shape(name).is_some(),
            Kind::Pickle(file) => file.tensor_infos().contains_key(name),
            Kind::Nothing => false,
        }
    }

    /// Shape of a tensor, without reading it.
    pub(crate) fn shape(&self, name: &str) -> Option<Vec<usize>> {
        match &self.kind {
            Kind::Safetensors(file) => file.shape(name).map(<[usize]>::to_vec),
            Kind::Pickle(file) => {
                let info = file.tensor_infos().get(name)?;
                Some(info.layout.shape().dims().to_vec())
            }
            Kind::Nothing => None,
        }
    }

    /// A tensor as stored, on the host.
    pub(crate) fn load(&self, name: &str) -> candle_core::Result<Option<Tensor>> {
        match &self.kind {
            Kind::Safetensors(file) => file.copy(name),
            Kind::Pickle(file) => file.get(name),
            Kind::Nothing => Ok(None),
        }
    }

    /// The whole file, where it is mapped.
    pub(crate) fn map(&self) -> Option<Arc<Mmap>> {
        match &self.kind {
            Kind::Safetensors(file) => Some(file.map()),
            Kind::Pickle(_) | Kind::Nothing => None,
        }
    }

    /// Bytes that a value takes in the file, where it is mapped: of its largest tensor, which speaks for all.
    pub(crate) fn bytes_per_value(&self) -> Option<usize> {
        match &self.kind {
            Kind::Safetensors(file) => file.bytes_per_value(),
            Kind::Pickle(_) | Kind::Nothing => None,
        }
    }

    /// A tensor in its place in the file, where that can be.
    pub(crate) fn mapped(&self, name: &str) -> Option<MappedTensor> {
        match &self.kind {
            Kind::Safetensors(file) => file.tensor(name),
            Kind::Pickle(_) | Kind::Nothing => None,
        }
    }
}
