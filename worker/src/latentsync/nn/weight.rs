//! The weights of a layer: a tensor, or a place in a mapped file.

use candle_core::{CpuStorage, Result, Storage, Tensor, bail};

use crate::latentsync::weights::{Keys, MappedTensor, Values};

pub(super) enum Weight {
    Held(Tensor),
    /// Only on the CPU, where the networks compute in `f32`.
    Mapped(MappedTensor),
}

impl Weight {
    pub(super) fn load(keys: &Keys, shape: &[usize], name: &str) -> Result<Self> {
        if let Some(mapped) = keys.mapped(shape, name) {
            return Ok(Self::Mapped(mapped));
        }
        keys.get(shape, name).map(Self::Held)
    }

    pub(super) fn shape(&self) -> &[usize] {
        match self {
            Self::Held(tensor) => tensor.dims(),
            Self::Mapped(mapped) => mapped.shape(),
        }
    }

    /// The weights as a tensor of their own.
    pub(super) fn tensor(&self) -> Result<&Tensor> {
        match self {
            Self::Held(tensor) => Ok(tensor),
            Self::Mapped(_) => bail!("mapped weights are used on the CPU in f32 alone"),
        }
    }

    /// Lends the values in the order of the shape.
    pub(super) fn with<R>(&self, work: impl FnOnce(Values) -> Result<R>) -> Result<R> {
        let tensor = match self {
            Self::Mapped(mapped) => return work(mapped.values()?),
            Self::Held(tensor) => tensor,
        };
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
