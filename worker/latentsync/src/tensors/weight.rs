//! The weights of a layer, and where they are.

use std::sync::Arc;

use candle_core::{CpuStorage, Result, Storage, Tensor, bail};

use super::mapped::{MappedTensor, Values};
use super::network_weights::OffloadableTensor;
use super::var_builder::VarBuilder;
use crate::run::Run;

pub(crate) struct Weight {
    place: Place,
    /// Brought to the device for each use if the options of the run say so.
    streamed: bool,
}

enum Place {
    /// Always where the network computes.
    Held(Tensor),
    /// Used in their place in a mapped file: only on the CPU, where the networks compute in `f32`.
    Mapped(MappedTensor),
    /// Brought to where the network computes, and taken away when it is idle.
    Moving(Arc<OffloadableTensor>),
}

/// A layer at work. Streamed weights go when this is dropped.
pub(crate) struct AtWork<'a>(Option<&'a Weight>);

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        match self.0.map(|weight| &weight.place) {
            Some(Place::Mapped(mapped)) => mapped.give_back(),
            Some(Place::Moving(offloadable)) => offloadable.evict(),
            Some(Place::Held(_)) | None => {}
        }
    }
}

impl Weight {
    pub(crate) fn load(vb: &VarBuilder, shape: &[usize], name: &str) -> Result<Self> {
        let place = if let Some(mapped) = vb.mapped(shape, name) {
            Place::Mapped(mapped)
        } else if let Some(offloadable) = vb.offloadable(shape, name)? {
            Place::Moving(offloadable)
        } else {
            Place::Held(vb.get(shape, name)?)
        };
        Ok(Self {
            place,
            streamed: vb.is_streamed(),
        })
    }

    #[cfg(test)]
    pub(crate) fn held(tensor: Tensor) -> Self {
        Self {
            place: Place::Held(tensor),
            streamed: false,
        }
    }

    pub(crate) fn shape(&self) -> &[usize] {
        match &self.place {
            Place::Held(tensor) => tensor.dims(),
            Place::Mapped(mapped) => mapped.shape(),
            Place::Moving(offloadable) => offloadable.shape(),
        }
    }

    /// To be kept for as long as a layer needs its weights, once or many times.
    pub(crate) fn at_work(&self, run: &Run) -> AtWork<'_> {
        AtWork((self.streamed && run.options.streamed).then_some(self))
    }

    /// The weights as a tensor of their own.
    pub(crate) fn tensor(&self) -> Result<Tensor> {
        match &self.place {
            Place::Held(tensor) => Ok(tensor.clone()),
            Place::Moving(offloadable) => offloadable.tensor(),
            Place::Mapped(_) => bail!("mapped weights are used on the CPU in f32 alone"),
        }
    }

    /// Lends the values in the order of the shape.
    pub(crate) fn with<R>(&self, work: impl FnOnce(Values) -> Result<R>) -> Result<R> {
        if let Place::Mapped(mapped) = &self.place {
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
