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
mod interface;
mod simulated;

use candle_core::Device;

pub use host::HostMemory;
pub use interface::{EngineMemory, Shortage, Work};
pub use simulated::SimulatedMemory;

use latentfarm_common::simulated_device::{SimulatedDevice, SimulatedError};

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
