//! Where the weights of a network lie while it works and while it is idle.
//!
//! Only the large tensors move, those of linear layers and convolutions; norms, biases and tables, a few MiB in
//! all, stay on the device.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::{DType, Device, Result, Tensor, bail};
use memmap2::Mmap;

use super::mapped::{MappedTensor, give_back};

/// The weights of one layer, which come to the device and leave it.
pub(crate) struct OffloadableTensor {
    source: Source,
    shape: Vec<usize>,
    dtype: DType,
    device: Device,
    /// On the device, where they are there.
    on_device: Mutex<Option<Tensor>>,
}

/// Where the weights come from.
enum Source {
    /// A mapped file. Its pages are given back to the kernel as soon as the device has its copy.
    Mapped(MappedTensor),
    /// A file that cannot be mapped: the host keeps a copy, from the first time that they leave the device on.
    Host(Mutex<Option<Tensor>>),
}

impl OffloadableTensor {
    /// Weights that lie in a mapped file.
    pub(super) fn mapped(tensor: MappedTensor, dtype: DType, device: &Device) -> Self {
        Self {
            shape: tensor.shape().to_vec(),
            source: Source::Mapped(tensor),
            dtype,
            device: device.clone(),
            on_device: Mutex::default(),
        }
    }

    /// Weights that were read, as they lie on the host.
    pub(super) fn read(tensor: &Tensor, dtype: DType, device: &Device) -> Result<Self> {
        Ok(Self {
            shape: tensor.dims().to_vec(),
            source: Source::Host(Mutex::new(Some(tensor.to_dtype(dtype)?))),
            dtype,
            device: device.clone(),
            on_device: Mutex::default(),
        })
    }

    pub(crate) fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The weights on the device. They stay there.
    pub(crate) fn tensor(&self) -> Result<Tensor> {
        let mut on_device = lock(&self.on_device);
        if let Some(tensor) = &*on_device {
            return Ok(tensor.clone());
        }
        let tensor = match &self.source {
            Source::Mapped(mapped) => mapped.copy(self.dtype, &self.device)?,
            Source::Host(host) => match &*lock(host) {
                Some(tensor) => tensor.to_device(&self.device)?,
                None => bail!("weights of shape {:?} are nowhere", self.shape),
            },
        };
        *on_device = Some(tensor.clone());
        Ok(tensor)
    }

    /// Brings the weights to the device for good, as far as is known: the host keeps no copy of its own.
    pub(super) fn pin(&self) -> Result<()> {
        self.tensor()?;
        if let Source::Host(host) = &self.source {
            *lock(host) = None;
        }
        Ok(())
    }

    /// Takes the weights off the device.
    pub(crate) fn evict(&self) {
        let mut on_device = lock(&self.on_device);
        let (Some(tensor), Source::Host(host)) = (&*on_device, &self.source) else {
            *on_device = None;
            return;
        };
        let mut host = lock(host);
        if host.is_none() {
            match tensor.to_device(&Device::Cpu) {
                Ok(copy) => *host = Some(copy),
                Err(error) => {
                    tracing::warn!(%error, "idle weights stay on the device: the host cannot take them");
                    return;
                }
            }
        }
        *on_device = None;
    }
}

/// A panic elsewhere does not harm what is locked here: it is replaced whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The weights of one network.
#[derive(Clone, Default)]
pub(crate) struct NetworkWeights {
    pub(super) offloadables: Vec<Arc<OffloadableTensor>>,
    pub(super) map: Option<Arc<Mmap>>,
}

impl NetworkWeights {
    /// The network is idle: its weights leave the device, and the pages of its mapped file go back to the kernel. Each
    /// comes back when it is next used.
    pub(crate) fn evict(&self) {
        for offloadable in &self.offloadables {
            offloadable.evict();
        }
        if let Some(map) = &self.map {
            give_back(map, 0..map.len());
        }
    }
}
