//! The weight tensor of one layer, and the places where it can be stored.

use std::sync::Arc;

use candle_core::{CpuStorage, Result, Storage, Tensor, bail};

use super::mapped::{MappedTensor, Values};
use super::network_weights::OffloadedParam;
use super::var_builder::VarBuilder;
use crate::run::Run;

/// The weight tensor of a linear layer or a convolution.
pub(crate) struct Weight {
    storage: WeightStorage,
    /// Whether the weights are copied to the device for each use if the options of the run stream them.
    streamed: bool,
}

enum WeightStorage {
    /// The weights are always on the device.
    Resident(Tensor),
    /// The weights are used where they lie in a mapped file. Only networks that compute in `f32` on the CPU
    /// do so.
    Mapped(MappedTensor),
    /// The weights are copied to the device when they are used, and evicted when the network is idle.
    Offloaded(Arc<OffloadedParam>),
}

/// Evicts streamed weights when it is dropped.
pub(crate) struct EvictOnDrop<'a>(Option<&'a Weight>);

impl Drop for EvictOnDrop<'_> {
    fn drop(&mut self) {
        match self.0.map(|weight| &weight.storage) {
            Some(WeightStorage::Mapped(mapped)) => mapped.release_pages(),
            Some(WeightStorage::Offloaded(offloaded_param)) => offloaded_param.evict(),
            Some(WeightStorage::Resident(_)) | None => {}
        }
    }
}

impl Weight {
    /// Loads the tensor `name` in the way that the device, the type and the options of `vb` call for.
    pub(crate) fn load(vb: &VarBuilder, shape: &[usize], name: &str) -> Result<Self> {
        let storage = if let Some(mapped) = vb.mapped(shape, name) {
            WeightStorage::Mapped(mapped)
        } else if let Some(offloaded_param) = vb.offloaded_param(shape, name)? {
            WeightStorage::Offloaded(offloaded_param)
        } else {
            WeightStorage::Resident(vb.get(shape, name)?)
        };
        Ok(Self {
            storage,
            streamed: vb.is_streamed(),
        })
    }

    #[cfg(test)]
    pub(crate) fn resident(tensor: Tensor) -> Self {
        Self {
            storage: WeightStorage::Resident(tensor),
            streamed: false,
        }
    }

    pub(crate) fn shape(&self) -> &[usize] {
        match &self.storage {
            WeightStorage::Resident(tensor) => tensor.dims(),
            WeightStorage::Mapped(mapped) => mapped.shape(),
            WeightStorage::Offloaded(offloaded_param) => offloaded_param.shape(),
        }
    }

    /// Returns a guard that evicts the weights when it is dropped, if the run streams them. A layer keeps it
    /// while it uses its weights.
    pub(crate) fn evict_after_use(&self, run: &Run) -> EvictOnDrop<'_> {
        EvictOnDrop((self.streamed && run.options.streamed).then_some(self))
    }

    /// Returns the weights as a tensor on the device.
    ///
    /// # Errors
    /// Fails for mapped weights, which [`with`](Self::with) lends instead.
    pub(crate) fn tensor(&self) -> Result<Tensor> {
        match &self.storage {
            WeightStorage::Resident(tensor) => Ok(tensor.clone()),
            WeightStorage::Offloaded(offloaded_param) => offloaded_param.tensor(),
            WeightStorage::Mapped(_) => bail!("mapped weights are used on the CPU in f32 alone"),
        }
    }

    /// Calls `work` with the values on the CPU, in the order of the shape.
    pub(crate) fn with<R>(&self, work: impl FnOnce(Values) -> Result<R>) -> Result<R> {
        if let WeightStorage::Mapped(mapped) = &self.storage {
            return work(mapped.values()?);
        }
        let tensor = self.tensor()?;
        let (storage, layout) = tensor.storage_and_layout();
        let Some((start, end)) = layout.contiguous_offsets() else {
            bail!("weights are not contiguous: {layout:?}");
        };
        match &*storage {
            Storage::Cpu(CpuStorage::F32(values)) => work(Values::F32(&values[start..end])),
            Storage::Cpu(CpuStorage::F16(values)) => work(Values::F16(&values[start..end])),
            Storage::Cpu(CpuStorage::BF16(values)) => work(Values::Bf16(&values[start..end])),
            _ => bail!("weights are not on the CPU as f32, f16 or bf16"),
        }
    }
}
