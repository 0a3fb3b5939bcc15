//! The devices that an engine computes on, with their memory: the host, a CUDA device, or a simulated GPU.
//!
//! | device              | measures what is in use by         | refuses in advance               | returns memory by      |
//! |---------------------|------------------------------------|----------------------------------|------------------------|
//! | [`HostMemory`]      | the counting allocator             | an operation above a soft budget | purging the allocator  |
//! | `CudaMemory`        | the driver's stream-ordered pool   | nothing: the driver refuses      | trimming the pool      |
//! | [`SimulatedMemory`] | the predicted cost of each stage   | a stage that does not fit        | nothing: it holds none |

#[cfg(feature = "cuda")]
mod cuda;
mod host;
mod interface;
mod simulated;

use std::time::{Duration, Instant};

use candle_core::Device;

pub use host::HostMemory;
pub use interface::{DeviceCondition, DeviceFacts, EngineMemory, FreeMemoryReader, Shortage, StageWork};
pub use simulated::SimulatedMemory;

use latentfarm_common::simulated_device::{SimulatedDevice, SimulatedDeviceError};

/// A device that is ready to compute on.
pub struct EngineDevice {
    /// The device as candle addresses it.
    pub device: Device,
    /// Text form of the device: `cpu`, `cuda:0` or `sim:PATH`.
    pub name: String,
    /// What really computes, for the numerics fingerprint: `cpu`, or a GPU's model.
    pub computes_as: String,
    /// The memory of the device.
    pub memory: Box<dyn EngineMemory>,
    /// How long it took to open the device and to try its kernels.
    pub opened_in: Duration,
}

/// Why a device cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The text names no device.
    #[error("`{0}` is not a device: use `cpu`, or `cuda:N` in a CUDA build")]
    Unknown(String),
    /// The file of a simulated device is missing or invalid.
    #[error(transparent)]
    Simulated(#[from] SimulatedDeviceError),
    /// The driver refuses the device, or this build has no CUDA.
    #[error("cannot use device `{name}`")]
    Driver {
        name: String,
        #[source]
        source: candle_core::Error,
    },
}

/// Opens the device with the text form `name`. On the host, `budget` is the most bytes that may be in use.
///
/// # Errors
/// Fails if the text names no device, or the device cannot be used.
pub fn open(name: &str, budget: Option<u64>) -> Result<EngineDevice, DeviceError> {
    let started = Instant::now();
    let on_cpu = |memory: Box<dyn EngineMemory>| EngineDevice {
        device: Device::Cpu,
        name: name.to_owned(),
        computes_as: "cpu".to_owned(),
        memory,
        opened_in: started.elapsed(),
    };
    if name == "cpu" {
        return Ok(on_cpu(Box::new(HostMemory::new(budget))));
    }
    if let Some(simulated) = SimulatedDevice::of_text(name) {
        return Ok(on_cpu(Box::new(SimulatedMemory::new(simulated?))));
    }
    let ordinal = name.strip_prefix("cuda:").and_then(|text| text.parse().ok());
    let ordinal = ordinal.ok_or_else(|| DeviceError::Unknown(name.to_owned()))?;
    let opened = open_cuda(ordinal, name).map_err(|source| DeviceError::Driver {
        name: name.to_owned(),
        source,
    });
    opened.map(|device| EngineDevice {
        opened_in: started.elapsed(),
        ..device
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
        opened_in: Duration::ZERO,
    })
}

#[cfg(not(feature = "cuda"))]
fn open_cuda(ordinal: usize, name: &str) -> candle_core::Result<EngineDevice> {
    // In a build without CUDA this always fails, with candle's own error.
    let device = Device::new_cuda_with_stream(ordinal)?;
    Ok(EngineDevice {
        device,
        name: name.to_owned(),
        computes_as: name.to_owned(),
        memory: Box::new(HostMemory::new(None)),
        opened_in: Duration::ZERO,
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
