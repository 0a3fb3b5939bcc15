//! Loads tensors from a weight file by name, and records the names that are missing or have another shape.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use candle_core::{DType, Device, Result, Tensor};

use super::error::WeightsError;
use super::file::TensorFile;
use super::mapped::MappedTensor;
use super::network_weights::{HostCopy, NetworkWeights, OffloadedParam};
use crate::options::ExecutionOptions;

/// A prefix in the tree of dotted tensor names, like candle's `VarBuilder`. A missing or misshaped tensor
/// does not end the load: zeros replace it, and [`LoadReport::finish`] names all of them in one error.
pub(crate) struct VarBuilder<'a> {
    file: &'a TensorFile,
    report: &'a LoadReport,
    path: String,
    device: &'a Device,
    dtype: DType,
    /// Whether only names and shapes are compared and no tensor is read.
    shapes_only: bool,
    /// Whether the network's weights are streamed if the options of a run stream weights.
    streamed: bool,
    options: ExecutionOptions,
}

/// The tensors that a network requested from a weight file, and those among them that do not fit.
#[derive(Default)]
pub(crate) struct LoadReport {
    keys: RefCell<RequestedKeys>,
}

/// The contents of a [`LoadReport`].
#[derive(Default)]
struct RequestedKeys {
    /// The requested names with the requested shapes.
    shapes: BTreeMap<String, Vec<usize>>,
    missing: Vec<String>,
    misshaped: Vec<String>,
    offloaded_params: Vec<Arc<OffloadedParam>>,
}

impl<'a> VarBuilder<'a> {
    /// Creates a builder without a prefix, which loads tensors to `device` as `dtype`.
    pub(crate) fn root(
        file: &'a TensorFile,
        report: &'a LoadReport,
        device: &'a Device,
        dtype: DType,
    ) -> Self {
        Self {
            file,
            report,
            path: String::new(),
            device,
            dtype,
            shapes_only: false,
            streamed: false,
            options: ExecutionOptions::default(),
        }
    }

    /// Returns the same builder with the options that a model is loaded under.
    pub(crate) fn with_options(self, options: ExecutionOptions) -> Self {
        Self { options, ..self }
    }

    /// Creates a builder that reads no tensor. Zeros replace all of them and take no memory.
    pub(crate) fn shapes_of(file: &'a TensorFile, report: &'a LoadReport) -> Self {
        Self {
            shapes_only: true,
            ..Self::root(file, report, &Device::Cpu, DType::F32)
        }
    }

    /// Returns the same builder for a network whose weights may be streamed.
    pub(crate) fn streamed(&self) -> Self {
        Self {
            path: self.path.clone(),
            streamed: true,
            ..*self
        }
    }

    /// Returns whether the network's weights may be streamed.
    pub(crate) fn is_streamed(&self) -> bool {
        self.streamed
    }

    /// Returns the builder with the prefix `name.` appended ("push prefix", as in candle).
    pub(crate) fn pp(&self, name: impl fmt::Display) -> Self {
        Self {
            path: self.join(name),
            ..*self
        }
    }

    /// Returns the dotted prefix without a trailing dot.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// Returns the type that tensors are converted to.
    pub(crate) fn dtype(&self) -> DType {
        self.dtype
    }

    /// Returns whether the file has the tensor `name` under this prefix.
    pub(crate) fn contains(&self, name: &str) -> bool {
        self.file.contains(&self.join(name))
    }

    /// Loads the tensor `name`, which must have this shape; it is converted on the host and then copied to
    /// the device.
    pub(crate) fn get(&self, shape: &[usize], name: &str) -> Result<Tensor> {
        let key = self.join(name);
        let mut keys = self.report.keys.borrow_mut();
        keys.shapes.insert(key.clone(), shape.to_vec());
        match self.file.shape(&key) {
            Some(stored) if stored == shape => {
                if let (false, Some(tensor)) = (self.shapes_only, self.file.load(&key)?) {
                    return tensor.to_dtype(self.dtype)?.to_device(self.device);
                }
            }
            Some(stored) => {
                keys.misshaped
                    .push(format!("{key} has shape {stored:?}, not {shape:?}"));
            }
            None => keys.missing.push(key),
        }
        Tensor::zeros((), self.dtype, self.device)?.broadcast_as(shape)
    }

    /// Loads the tensor `name` as a parameter that can be evicted from the device. It is copied there at once
    /// unless the options keep idle networks off the device. Returns `None` if the tensor is missing or has
    /// another shape, which [`VarBuilder::get`] reports, or if eviction would save nothing because the device
    /// is the CPU.
    pub(crate) fn offloaded_param(&self, shape: &[usize], name: &str) -> Result<Option<Arc<OffloadedParam>>> {
        let key = self.join(name);
        if self.shapes_only || self.file.shape(&key).is_none_or(|stored| stored != shape) {
            return Ok(None);
        }
        let host_copy = match self.file.mapped(&key) {
            Some(mapped) => HostCopy::Mapped(mapped),
            // On the CPU, a tensor that was read into memory would only be copied within it.
            None if self.device.is_cpu() => return Ok(None),
            None => match self.file.load(&key)? {
                Some(tensor) => HostCopy::InMemory(Mutex::new(Some(tensor.to_dtype(self.dtype)?))),
                None => return Ok(None),
            },
        };
        let offloaded_param = OffloadedParam::new(host_copy, shape, self.dtype, self.device);
        if !self.options.offload {
            offloaded_param.pin()?;
        }
        let offloaded_param = Arc::new(offloaded_param);
        let mut keys = self.report.keys.borrow_mut();
        keys.shapes.insert(key, shape.to_vec());
        keys.offloaded_params.push(Arc::clone(&offloaded_param));
        Ok(Some(offloaded_param))
    }

    /// Returns the evictable weights that were loaded so far, as those of one network.
    pub(crate) fn network_weights(&self) -> NetworkWeights {
        NetworkWeights {
            offloaded_params: self.report.keys.borrow().offloaded_params.clone(),
            map: self.file.map(),
        }
    }

    /// Returns the tensor `name` in its place in a mapped file. Returns `None` if the network does not
    /// compute in `f32` on the CPU, if the tensor cannot be used in its place, or if it is missing or has
    /// another shape, which [`VarBuilder::get`] reports.
    pub(crate) fn mapped(&self, shape: &[usize], name: &str) -> Option<MappedTensor> {
        if self.shapes_only
            || !self.device.is_cpu()
            || self.dtype != DType::F32
            || self.options.reference_kernels
        {
            return None;
        }
        let key = self.join(name);
        let tensor = self.file.mapped(&key).filter(|tensor| tensor.shape() == shape)?;
        self.report.keys.borrow_mut().shapes.insert(key, shape.to_vec());
        Some(tensor)
    }

    fn join(&self, name: impl fmt::Display) -> String {
        if self.path.is_empty() {
            name.to_string()
        } else {
            format!("{}.{name}", self.path)
        }
    }
}

impl LoadReport {
    /// Returns the names and shapes of all requested tensors.
    pub(crate) fn into_shapes(self) -> BTreeMap<String, Vec<usize>> {
        self.keys.into_inner().shapes
    }

    /// Returns the number of values in all requested tensors.
    pub(crate) fn values(&self) -> u64 {
        let keys = self.keys.borrow();
        keys.shapes
            .values()
            .map(|shape| shape.iter().product::<usize>() as u64)
            .sum()
    }

    /// Checks that every tensor under `prefix` of the file `path` was requested and had the requested shape.
    ///
    /// # Errors
    /// [`WeightsError::Mismatch`] names the tensors that do not fit, the first [`LISTED`] of each kind.
    pub(crate) fn finish(
        self,
        file: &TensorFile,
        prefix: &str,
        path: &Path,
    ) -> std::result::Result<(), WeightsError> {
        let keys = self.keys.into_inner();
        let unexpected: Vec<String> = file
            .names()
            .into_iter()
            .filter(|name| name.starts_with(prefix) && !keys.shapes.contains_key(name))
            .collect();
        let parts: Vec<String> = [
            ("missing", keys.missing),
            ("misshaped", keys.misshaped),
            ("unexpected", unexpected),
        ]
        .iter()
        .filter(|(_, names)| !names.is_empty())
        .map(|(word, names)| format!("{} {word}: {}", names.len(), listed(names)))
        .collect();
        if parts.is_empty() {
            return Ok(());
        }
        Err(WeightsError::mismatch(path, parts.join("; ")))
    }
}

/// The most names that an error lists for each kind of mismatch. With the file of another model it could be a
/// thousand.
const LISTED: usize = 12;

fn listed(names: &[String]) -> String {
    let shown = names[..names.len().min(LISTED)].join(", ");
    match names.len().saturating_sub(LISTED) {
        0 => shown,
        rest => format!("{shown} and {rest} more"),
    }
}
