//! CPU offload of the weights of a network, which are copied to the device when it runs and evicted when it
//! is idle.
//!
//! Only the large tensors are evicted, those of linear layers and convolutions. Norms, biases and tables, a
//! few MiB in all, stay on the device.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::{DType, Device, Result, Tensor, bail};
use memmap2::Mmap;

use super::mapped::{MappedTensor, release_pages};

/// The weights of one layer, which can be copied to the device and evicted from it.
pub(crate) struct OffloadedParam {
    host_copy: HostCopy,
    shape: Vec<usize>,
    dtype: DType,
    device: Device,
    /// The copy on the device, while there is one.
    on_device: Mutex<Option<Tensor>>,
}

/// The copy on the host that the device's copy is made from.
pub(super) enum HostCopy {
    /// The weights lie in a mapped file, whose pages are released as soon as the device has its copy.
    Mapped(MappedTensor),
    /// The file cannot be mapped. The host keeps a copy until the weights are pinned to the device, and again
    /// from the next eviction on.
    InMemory(Mutex<Option<Tensor>>),
}

impl OffloadedParam {
    /// Creates a parameter that is not on the device yet.
    pub(super) fn new(host_copy: HostCopy, shape: &[usize], dtype: DType, device: &Device) -> Self {
        Self {
            host_copy,
            shape: shape.to_vec(),
            dtype,
            device: device.clone(),
            on_device: Mutex::default(),
        }
    }

    pub(crate) fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Returns the weights on the device and copies them there first if they are not. They stay there until
    /// [`evict`](Self::evict).
    pub(crate) fn tensor(&self) -> Result<Tensor> {
        let mut on_device = lock(&self.on_device);
        if let Some(tensor) = &*on_device {
            return Ok(tensor.clone());
        }
        let tensor = match &self.host_copy {
            HostCopy::Mapped(mapped) => mapped.copy(self.dtype, &self.device)?,
            HostCopy::InMemory(host) => match &*lock(host) {
                Some(tensor) => tensor.to_device(&self.device)?,
                None => bail!(
                    "weights of shape {:?} are neither on the host nor on the device",
                    self.shape
                ),
            },
        };
        *on_device = Some(tensor.clone());
        Ok(tensor)
    }

    /// Copies the weights to the device and drops the copy in the host's memory. A later eviction makes that
    /// copy again.
    pub(super) fn pin(&self) -> Result<()> {
        self.tensor()?;
        if let HostCopy::InMemory(host) = &self.host_copy {
            *lock(host) = None;
        }
        Ok(())
    }

    /// Removes the weights from the device. They stay there if the host cannot take them.
    pub(crate) fn evict(&self) {
        let mut on_device = lock(&self.on_device);
        let (Some(tensor), HostCopy::InMemory(host)) = (&*on_device, &self.host_copy) else {
            *on_device = None;
            return;
        };
        let mut host = lock(host);
        if host.is_none() {
            match tensor.to_device(&Device::Cpu) {
                Ok(copy) => *host = Some(copy),
                Err(error) => {
                    tracing::warn!(%error, "cannot copy idle weights to the host, they stay on the device");
                    return;
                }
            }
        }
        *on_device = None;
    }
}

/// Locks a mutex even if a thread panicked while it held the lock: the value is always replaced as a whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The weights of one network.
#[derive(Clone, Default)]
pub(crate) struct NetworkWeights {
    pub(super) offloaded_params: Vec<Arc<OffloadedParam>>,
    pub(super) map: Option<Arc<Mmap>>,
}

impl NetworkWeights {
    /// Evicts the weights of an idle network from the device, and releases the pages of its mapped file to
    /// the kernel. Each weight is copied again when a layer uses it.
    pub(crate) fn evict(&self) {
        for offloaded_param in &self.offloaded_params {
            offloaded_param.evict();
        }
        if let Some(map) = &self.map {
            release_pages(map, 0..map.len());
        }
    }
}
