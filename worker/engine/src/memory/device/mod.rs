//! Where an engine computes and what memory it has there: one seam for the host, CUDA and what stands in for it.
//!
//! | device           | in use                   | refused before the real end                | given back by          |
//! |------------------|--------------------------|--------------------------------------------|------------------------|
//! | [`HostMemory`]   | counting allocator       | an operation above a soft budget           | the allocator's purge  |
//! | `CudaMemory`     | the stream-ordered pool  | never: the driver refuses                  | trimming the pool      |
//! | [`SimulatedMemory`] | what the model's stages take | a stage that does not fit            | nothing is really held |

#[cfg(feature = "cuda")]
mod cuda;
mod host;
mod simulated;

use candle_core::Device;
use latentfarm_common::wire::memory::{MemoryPlan, MemorySample, MemoryStage};

pub use host::HostMemory;
pub use simulated::SimulatedMemory;

use super::simulated::{SimulatedDevice, SimulatedError};
use latentsync::Checkpoint;
use latentsync::boundary::Op;

pub(super) const MIB: u64 = 1 << 20;

/// More memory than there is was asked for. Told before anything was allocated, or by the allocator itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("out of memory: {} MiB are needed at least, {} MiB may be used", needed.div_ceil(MIB), limit / MIB)]
pub struct Shortage {
    /// Lower bound on the bytes that the work takes of the device, what the engine holds already included.
    pub needed: u64,
    /// Bytes that this engine may use.
    pub limit: u64,
}

/// What an engine is about to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work {
    pub stage: MemoryStage,
    pub plan: MemoryPlan,
    /// Whether classifier-free guidance is on.
    pub guided: bool,
}

/// The memory of the device that an engine computes on. Bytes throughout.
pub trait EngineMemory {
    /// Whether the device is sound after a panic in the middle of its work.
    fn survives_panic(&self) -> bool;

    /// A reading, but for the peak, which [`EngineMemory::take_peak`] tells once.
    fn reading(&self) -> MemorySample;

    /// Highest bytes in use since the last call.
    fn take_peak(&mut self) -> u64;

    /// The weights of `checkpoint` are about to be loaded; there are none.
    ///
    /// # Errors
    /// Where they do not fit.
    fn load(&mut self, checkpoint: &Checkpoint, work: Work) -> Result<(), Shortage>;

    /// They were.
    fn loaded(&mut self, checkpoint: &Checkpoint);

    /// They were not, or were dropped.
    fn unloaded(&mut self);

    /// A stage, a frame or a step begins.
    ///
    /// # Errors
    /// Where it is known not to fit.
    fn begin(&mut self, work: Work) -> Result<(), Shortage>;

    /// An operation on values of `value_bytes` each is about to run.
    ///
    /// # Errors
    /// Where what it takes would not fit.
    fn before(&mut self, op: Op, value_bytes: usize) -> Result<(), Shortage>;

    /// Lower bound on the bytes that the work takes which the allocator has just refused.
    fn refused(&self) -> u64;

    /// After the allocator refused: clears the error and gives back what is not in use. Whether the same work may
    /// fit now.
    fn recover(&mut self) -> bool;

    /// Waits for what runs, then gives what is not in use back to the system, but for `keep` bytes in all.
    fn trim(&mut self, keep: u64);

    /// Bytes that no cleanup gives back: for faults on demand.
    fn leak(&mut self, bytes: u64);
}

/// A device, ready to compute on.
pub struct EngineDevice {
    pub device: Device,
    /// Text form: `cpu`, `cuda:0` or `sim:PATH`.
    pub name: String,
    /// What really computes, for the numeric kind: `cpu`, or a GPU's model.
    pub computes_as: String,
    pub memory: Box<dyn EngineMemory>,
}

#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    #[error("`{0}` is no device: `cpu`, or `cuda:N` in a CUDA build")]
    Unknown(String),
    #[error(transparent)]
    Simulated(#[from] SimulatedError),
    #[error("cannot use device `{name}`")]
    Driver {
        name: String,
        #[source]
        source: candle_core::Error,
    },
}

/// Opens a device by its text form. `budget` bounds the bytes in use on the host.
///
/// # Errors
/// Where the text names no device, or the device cannot be used.
pub fn open(name: &str, budget: Option<u64>) -> Result<EngineDevice, DeviceError> {
    let on_cpu = |memory: Box<dyn EngineMemory>| EngineDevice {
        device: Device::Cpu,
        name: name.to_owned(),
        computes_as: "cpu".to_owned(),
        memory,
    };
    if name == "cpu" {
        return Ok(on_cpu(Box::new(HostMemory::new(budget))));
    }
    if let Some(simulated) = SimulatedDevice::of_text(name) {
        return Ok(on_cpu(Box::new(SimulatedMemory::new(simulated?))));
    }
    let ordinal = name.strip_prefix("cuda:").and_then(|text| text.parse().ok());
    let ordinal = ordinal.ok_or_else(|| DeviceError::Unknown(name.to_owned()))?;
    open_cuda(ordinal, name).map_err(|source| DeviceError::Driver {
        name: name.to_owned(),
        source,
    })
}

#[cfg(feature = "cuda")]
fn open_cuda(ordinal: usize, name: &str) -> candle_core::Result<EngineDevice> {
    let (device, memory) = cuda::CudaMemory::open(ordinal)?;
    Ok(EngineDevice {
        device,
        name: name.to_owned(),
        computes_as: memory.chip()?,
        memory: Box::new(memory),
    })
}

#[cfg(not(feature = "cuda"))]
fn open_cuda(ordinal: usize, name: &str) -> candle_core::Result<EngineDevice> {
    // Always an error in a build without CUDA, and candle's own words for it.
    let device = Device::new_cuda_with_stream(ordinal)?;
    Ok(EngineDevice {
        device,
        name: name.to_owned(),
        computes_as: name.to_owned(),
        memory: Box::new(HostMemory::new(None)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_names_no_device_is_refused() {
        for text in ["gpu", "cuda:", "cuda:x", "CPU"] {
            assert!(matches!(open(text, None), Err(DeviceError::Unknown(_))), "{text}");
        }
        assert!(matches!(
            open("sim:/nowhere", None),
            Err(DeviceError::Simulated(_))
        ));
        #[cfg(not(feature = "cuda"))]
        assert!(matches!(open("cuda:0", None), Err(DeviceError::Driver { .. })));
    }
}
