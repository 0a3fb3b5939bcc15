//! Reads which devices the machine has and how much of their memory is free: GPUs by NVML (always by UUID,
//! never by number), simulated GPUs by their file, the host by the kernel. The device monitor and
//! `latentfarm-worker probe` use it.

mod devices;
mod driver;
mod nvml;
mod reading;
mod stand_in;
mod visible;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use latentfarm_common::error::one_line;
use latentfarm_common::wire::outcome::GpuStatus;

use driver::Driver;
use latentfarm_common::host;
use latentfarm_common::simulated_device::SimulatedDevice;

pub use devices::{
    Device, DeviceSelector, FailedDevice, InvalidDeviceSelector, Inventory, SelectedDevices, Unavailable,
    resolve,
};
pub use reading::{Gpu, Reading};

/// A driver is not queried more often about one GPU.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(250);

/// Reads devices. Clones share the driver and its last readings. The calls block for milliseconds.
#[derive(Clone, Debug)]
pub struct Probe {
    shared: Arc<ProbeShared>,
}

/// The last reading of a GPU, or why there was none, with its time.
type LastReading = (Instant, Result<Reading, String>);

#[derive(Debug)]
struct ProbeShared {
    /// The driver, or why there is none.
    driver: Result<Driver, String>,
    /// The last readings by the UUID of the GPU.
    last: Mutex<BTreeMap<String, LastReading>>,
}

impl Probe {
    /// Opens the driver's library if there is one.
    pub fn open() -> Self {
        Self::new(Driver::open())
    }

    /// Makes a probe whose GPUs a file describes, for tests.
    pub fn stand_in(path: PathBuf) -> Self {
        Self::new(Ok(Driver::stand_in(path)))
    }

    /// Opens the driver's library only if one of the selectors can name a real GPU.
    pub fn for_devices(selectors: &[DeviceSelector]) -> Self {
        let needs_driver = |selector: &DeviceSelector| match selector {
            DeviceSelector::Auto | DeviceSelector::Cuda(_) | DeviceSelector::Uuid(_) => true,
            DeviceSelector::Cpu | DeviceSelector::Simulated(_) => false,
        };
        if selectors.iter().any(needs_driver) {
            Self::open()
        } else {
            Self::without_driver()
        }
    }

    /// Makes a probe that does not use the driver and reports no GPU.
    pub fn without_driver() -> Self {
        Self::new(Err("not checked, as --device names none".to_owned()))
    }

    fn new(driver: Result<Driver, String>) -> Self {
        let last = Mutex::default();
        Self {
            shared: Arc::new(ProbeShared { driver, last }),
        }
    }

    /// Returns the GPUs that this process may use, in the order of `CUDA_VISIBLE_DEVICES`, or in one line why
    /// there are none.
    pub fn gpus(&self) -> Result<Vec<Gpu>, String> {
        let driver = self.shared.driver.as_ref().map_err(Clone::clone)?;
        let variable = std::env::var("CUDA_VISIBLE_DEVICES").ok();
        let visible = visible::visible(&driver.gpus()?, variable.as_deref());
        if visible.is_empty() && variable.is_some() {
            return Err("CUDA_VISIBLE_DEVICES hides every GPU".to_owned());
        }
        Ok(visible)
    }

    /// Returns the devices and engines of the machine. `cuda_engine` is the path of the CUDA engine if it is
    /// installed.
    pub fn inventory(&self, cuda_engine: PathBuf) -> Inventory {
        let cuda_engine = if cuda_engine.is_file() {
            Ok(cuda_engine)
        } else {
            Err(cuda_engine)
        };
        Inventory {
            gpus: self.gpus(),
            cuda_engine,
            failed: BTreeMap::new(),
        }
    }

    /// Reads the memory of a device, or returns in one line why it cannot be read.
    pub fn read(&self, device: &Device) -> Result<Reading, String> {
        match device {
            Device::Cpu => Ok(Reading {
                free_mib: host::available_mib(),
                total_mib: host::total_mib(),
                gpu_status: GpuStatus::default(),
            }),
            Device::Simulated(path) => {
                let simulated = SimulatedDevice::open(path)
                    .map_err(|error| format!("the simulated GPU cannot be read: {}", one_line(&error)))?;
                let (total_mib, tenant_mib) = (simulated.total_mib(), simulated.tenant_mib());
                Ok(Reading {
                    free_mib: total_mib.saturating_sub(tenant_mib),
                    total_mib,
                    gpu_status: GpuStatus::default(),
                })
            }
            Device::Cuda { gpu, .. } => self.read_gpu(&gpu.uuid),
        }
    }

    /// Returns the version of the NVIDIA driver, if there is one that tells.
    pub fn driver_version(&self) -> Option<String> {
        self.shared.driver.as_ref().ok()?.version()
    }

    fn read_gpu(&self, uuid: &str) -> Result<Reading, String> {
        let driver = self.shared.driver.as_ref().map_err(Clone::clone)?;
        // The lock is held during the query, so that a second caller gets the first one's reading.
        let mut last = self.shared.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, reading)) = last.get(uuid)
            && at.elapsed() < SHORTEST_INTERVAL
        {
            return reading.clone();
        }
        let reading = driver.read(uuid);
        last.insert(uuid.to_owned(), (Instant::now(), reading.clone()));
        reading
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_simulated_gpu_is_read_anew_each_time_and_its_tenants_take_from_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("eight.gpu");
        let probe = Probe::without_driver();
        let device = Device::Simulated(path.clone());
        assert!(probe.read(&device).is_err());
        std::fs::write(&path, "total_mib = 8192\ntenant_mib = 0\ncost_percent = 100\n").unwrap();
        assert_eq!(probe.read(&device).unwrap().free_mib, 8192);
        std::fs::write(&path, "total_mib = 8192\ntenant_mib = 5000\n").unwrap();
        let reading = probe.read(&device).unwrap();
        assert_eq!((reading.free_mib, reading.total_mib), (3192, 8192));
    }

    #[test]
    fn the_host_can_be_read_as_a_device() {
        let reading = Probe::without_driver().read(&Device::Cpu).unwrap();
        assert!(reading.free_mib > 0 && reading.free_mib <= reading.total_mib);
    }

    /// Passes on machines with a GPU and on those without.
    #[test]
    fn the_driver_lists_gpus_that_can_be_read_or_one_line_tells_why_not() {
        let probe = Probe::open();
        match probe.gpus() {
            Ok(gpus) => {
                for (ordinal, gpu) in gpus.into_iter().enumerate() {
                    let reading = probe.read(&Device::Cuda { ordinal, gpu }).unwrap();
                    assert!(reading.free_mib <= reading.total_mib);
                }
            }
            Err(reason) => assert!(!reason.is_empty() && !reason.contains('\n'), "{reason}"),
        }
    }
}
