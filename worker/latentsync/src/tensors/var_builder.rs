//! Takes tensors out of a weight file by name, and keeps account of what did not fit.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor};

use super::file::TensorFile;
use super::mapped::MappedTensor;
use super::network_weights::{NetworkWeights, OffloadableTensor};
use crate::options::ExecutionOptions;

/// A place in the tree of dotted tensor names, like candle's `VarBuilder`. A missing or misshaped tensor does
/// not end the load: zeros stand in for it, and [`LoadReport::finish`] names every one.
pub(crate) struct VarBuilder<'a> {
    file: &'a TensorFile,
    report: &'a LoadReport,
    path: String,
    device: &'a Device,
    dtype: DType,
    /// Compare names and shapes alone, and read nothing.
    shapes_only: bool,
    streamed: bool,
    options: ExecutionOptions,
}

/// What was asked of a weight file, and what was wrong.
#[derive(Default)]
pub(crate) struct LoadReport {
    account: RefCell<Account>,
}

#[derive(Default)]
struct Account {
    /// Everything asked for, with its shape.
    wanted: BTreeMap<String, Vec<usize>>,
    missing: Vec<String>,
    misshaped: Vec<String>,
    offloadables: Vec<Arc<OffloadableTensor>>,
}

impl<'a> VarBuilder<'a> {
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

    /// The same place under the options that hold while a model is loaded.
    pub(crate) fn with_options(self, options: ExecutionOptions) -> Self {
        Self { options, ..self }
    }

    /// As [`VarBuilder::root`], but no tensor is read: zeros stand in for all, without storage of their size.
    pub(crate) fn shapes_of(file: &'a TensorFile, report: &'a LoadReport) -> Self {
        Self {
            shapes_only: true,
            ..Self::root(file, report, &Device::Cpu, DType::F32)
        }
    }

    /// The same place in a network whose weights may be streamed.
    pub(crate) fn streamed(&self) -> Self {
        Self {
            path: self.path.clone(),
            streamed: true,
            ..*self
        }
    }

    /// Whether the network's weights may be streamed.
    pub(crate) fn is_streamed(&self) -> bool {
        self.streamed
    }

    /// The names under `name.`.
    pub(crate) fn pp(&self, name: impl fmt::Display) -> Self {
        Self {
            path: self.join(name),
            ..*self
        }
    }

    /// The dotted path so far.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// The type that tensors are converted to.
    pub(crate) fn dtype(&self) -> DType {
        self.dtype
    }

    pub(crate) fn contains(&self, name: &str) -> bool {
        self.file.contains(&self.join(name))
    }

    /// The tensor `name` with exactly this shape, converted on the host and then moved to the device.
    pub(crate) fn get(&self, shape: &[usize], name: &str) -> Result<Tensor> {
        let key = self.join(name);
        let mut account = self.report.account.borrow_mut();
        account.wanted.insert(key.clone(), shape.to_vec());
        match self.file.shape(&key) {
            Some(stored) if stored == shape => {
                if let (false, Some(tensor)) = (self.shapes_only, self.file.load(&key)?) {
                    return tensor.to_dtype(self.dtype)?.to_device(self.device);
                }
            }
            Some(stored) => {
                account
                    .misshaped
                    .push(format!("{key} has shape {stored:?}, not {shape:?}"));
            }
            None => account.missing.push(key),
        }
        Tensor::zeros((), self.dtype, self.device)?.broadcast_as(shape)
    }

    /// The tensor `name` with exactly this shape, to be brought to the device and taken off it; it is there at once
    /// unless the options keep idle networks off it. `None` where it has another shape, where this would
    /// gain nothing, or where [`VarBuilder::mapped`] does better: [`VarBuilder::get`] then says more.
    pub(crate) fn offloadable(&self, shape: &[usize], name: &str) -> Result<Option<Arc<OffloadableTensor>>> {
        let key = self.join(name);
        if self.shapes_only || self.file.shape(&key).is_none_or(|stored| stored != shape) {
            return Ok(None);
        }
        let offloadable = match self.file.mapped(&key) {
            Some(mapped) => OffloadableTensor::mapped(mapped, self.dtype, self.device),
            // What was read onto the host's heap would only be copied on the host.
            None if self.device.is_cpu() => return Ok(None),
            None => match self.file.load(&key)? {
                Some(tensor) => OffloadableTensor::read(&tensor, self.dtype, self.device)?,
                None => return Ok(None),
            },
        };
        if !self.options.offload {
            offloadable.pin()?;
        }
        let offloadable = Arc::new(offloadable);
        let mut account = self.report.account.borrow_mut();
        account.wanted.insert(key, shape.to_vec());
        account.offloadables.push(Arc::clone(&offloadable));
        Ok(Some(offloadable))
    }

    /// All weights that were asked for so far as a network's.
    pub(crate) fn network_weights(&self) -> NetworkWeights {
        NetworkWeights {
            offloadables: self.report.account.borrow().offloadables.clone(),
            map: self.file.map(),
        }
    }

    /// The tensor `name` in its place in a mapped file. `None` where it has another shape, cannot be used in its
    /// place, or is wanted in another way than as `f32` on the CPU: [`VarBuilder::get`] then says more.
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
        self.report
            .account
            .borrow_mut()
            .wanted
            .insert(key, shape.to_vec());
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
    /// Names and shapes of everything that was asked for.
    pub(crate) fn into_wanted(self) -> BTreeMap<String, Vec<usize>> {
        self.account.into_inner().wanted
    }

    /// Number of values in everything that was asked for.
    pub(crate) fn values(&self) -> u64 {
        let account = self.account.borrow();
        account
            .wanted
            .values()
            .map(|shape| shape.iter().product::<usize>() as u64)
            .sum()
    }

    /// What did not fit, by name, the first of each kind where there are many; `None` where every tensor under `prefix` was used and had its shape.
    pub(crate) fn finish(self, file: &TensorFile, prefix: &str) -> Option<String> {
        let account = self.account.into_inner();
        let unexpected: Vec<String> = file
            .names()
            .into_iter()
            .filter(|name| name.starts_with(prefix) && !account.wanted.contains_key(name))
            .collect();
        let parts: Vec<String> = [
            ("missing", account.missing),
            ("misshaped", account.misshaped),
            ("unexpected", unexpected),
        ]
        .iter()
        .filter(|(_, names)| !names.is_empty())
        .map(|(word, names)| format!("{} {word}: {}", names.len(), listed(names)))
        .collect();
        (!parts.is_empty()).then(|| parts.join("; "))
    }
}

/// Names given of each kind of mismatch. With another model's file it may be all of a thousand.
const LISTED: usize = 12;

fn listed(names: &[String]) -> String {
    let shown = names[..names.len().min(LISTED)].join(", ");
    match names.len().saturating_sub(LISTED) {
        0 => shown,
        rest => format!("{shown} and {rest} more"),
    }
}
