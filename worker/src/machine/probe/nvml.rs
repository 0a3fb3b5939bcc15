//! Reads GPUs from the NVIDIA driver by NVML. The library is opened at run time, so that the same program
//! runs on machines without it.

use latentfarm_common::wire::outcome::GpuStatus;
use nvml_wrapper::enum_wrappers::device::TemperatureSensor;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};

use super::reading::{Gpu, Reading};

const MIB: u64 = 1 << 20;

/// The open library of the driver.
#[derive(Debug)]
pub(super) struct Nvidia {
    nvml: Nvml,
}

impl Nvidia {
    /// Opens the library; the error is one line for people if there is no driver or a broken one.
    pub(super) fn open() -> Result<Self, String> {
        match Nvml::init() {
            Ok(nvml) => Ok(Self { nvml }),
            Err(error) => Err(explain(&error)),
        }
    }

    /// Returns every GPU and partition that the driver lists for this process, in the order of their slots.
    pub(super) fn gpus(&self) -> Result<Vec<Gpu>, String> {
        let count = self
            .nvml
            .device_count()
            .map_err(|error| format!("the NVIDIA driver cannot count the GPUs: {error}"))?;
        let mut gpus = Vec::new();
        for number in 0..count {
            // A GPU that this process may not use, or that is broken, does not keep it from using the others.
            let Ok(device) = self.nvml.device_by_index(number) else {
                tracing::warn!(number, "a GPU does not respond and is left out");
                continue;
            };
            let Ok(uuid) = device.uuid() else { continue };
            let name = device.name().unwrap_or_else(|_| "NVIDIA GPU".to_owned());
            let partitions = partitions(&device, number, &uuid, &name);
            gpus.push(Gpu {
                uuid,
                name,
                number,
                parent: None,
                is_partitioned: !partitions.is_empty(),
            });
            gpus.extend(partitions);
        }
        Ok(gpus)
    }

    /// Returns the version of the driver.
    pub(super) fn version(&self) -> Option<String> {
        self.nvml.sys_driver_version().ok()
    }

    /// Reads the memory of one GPU or partition, and the sensors of the GPU.
    pub(super) fn read(&self, uuid: &str) -> Result<Reading, String> {
        let failed =
            |error: NvmlError| format!("the NVIDIA driver cannot read the memory of {uuid}: {error}");
        let device = self.nvml.device_by_uuid(uuid).map_err(failed)?;
        let memory = device.memory_info().map_err(failed)?;
        Ok(Reading {
            free_mib: memory.free / MIB,
            // The memory that the driver reserves for itself can be used by no program.
            total_mib: memory.total.saturating_sub(memory.reserved) / MIB,
            gpu_status: gpu_status(&device),
        })
    }
}

/// Returns the MIG partitions of a GPU.
fn partitions(device: &Device<'_>, number: u32, parent: &str, name: &str) -> Vec<Gpu> {
    // Most GPUs do not support partitions: the call then fails.
    let slots = device.mig_device_count().unwrap_or(0);
    let found = (0..slots).filter_map(|slot| {
        let partition = device.mig_device_by_index(slot).ok()?;
        Some(Gpu {
            uuid: partition.uuid().ok()?,
            name: partition.name().unwrap_or_else(|_| format!("{name} MIG")),
            number,
            parent: Some(parent.to_owned()),
            is_partitioned: false,
        })
    });
    found.collect()
}

/// Reads temperature, use and power. A partition has no sensors of its own: its GPU's are read.
fn gpu_status(device: &Device<'_>) -> GpuStatus {
    let parent = device.mig_parent_device().ok();
    let sensors = parent.as_ref().unwrap_or(device);
    GpuStatus {
        temperature_c: sensors.temperature(TemperatureSensor::Gpu).ok(),
        utilization_percent: device.utilization_rates().ok().map(|rates| rates.gpu),
        power_w: sensors.power_usage().ok().map(|milliwatts| milliwatts / 1000),
    }
}

/// Explains in one line why the driver cannot be opened.
fn explain(error: &NvmlError) -> String {
    match error {
        NvmlError::LibloadingError(_) | NvmlError::LibraryNotFound => {
            "no NVIDIA driver on this machine (libnvidia-ml.so.1 is not found)".to_owned()
        }
        NvmlError::DriverNotLoaded => "the NVIDIA driver is installed but not loaded".to_owned(),
        NvmlError::LibRmVersionMismatch => {
            "the NVIDIA driver and its library are of different versions: restart the machine".to_owned()
        }
        NvmlError::NoPermission => "this user has no permission to query the NVIDIA driver".to_owned(),
        other => format!("the NVIDIA driver does not respond: {other}"),
    }
}
