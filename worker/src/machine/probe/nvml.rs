//! What the NVIDIA driver tells. Its library is opened at run time, so that the same program runs without it.

use latentfarm_common::wire::outcome::GpuStatus;
use nvml_wrapper::enum_wrappers::device::TemperatureSensor;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};

use super::reading::{Gpu, Reading};

const MIB: u64 = 1 << 20;

/// An open driver library.
#[derive(Debug)]
pub(super) struct Driver {
    nvml: Nvml,
}

impl Driver {
    /// Fails with one line for people where there is no driver, or a broken one.
    pub(super) fn open() -> Result<Self, String> {
        match Nvml::init() {
            Ok(nvml) => Ok(Self { nvml }),
            Err(error) => Err(explain(&error)),
        }
    }

    /// Every GPU and partition that the driver shows to this process, in the order of their slots.
    pub(super) fn gpus(&self) -> Result<Vec<Gpu>, String> {
        let count = self
            .nvml
            .device_count()
            .map_err(|error| format!("the NVIDIA driver does not count its GPUs: {error}"))?;
        let mut gpus = Vec::new();
        for number in 0..count {
            // A GPU that this process may not see, or that is broken, is no reason to give up the others.
            let Ok(device) = self.nvml.device_by_index(number) else {
                tracing::warn!(number, "a GPU does not answer and is left out");
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

    /// What is free on one GPU or partition now.
    pub(super) fn read(&self, uuid: &str) -> Result<Reading, String> {
        let failed =
            |error: NvmlError| format!("the NVIDIA driver does not tell the memory of {uuid}: {error}");
        let device = self.nvml.device_by_uuid(uuid).map_err(failed)?;
        let memory = device.memory_info().map_err(failed)?;
        Ok(Reading {
            free_mib: memory.free / MIB,
            // What the driver keeps for itself is nobody's.
            total_mib: memory.total.saturating_sub(memory.reserved) / MIB,
            vitals: vitals(&device),
        })
    }
}

fn partitions(device: &Device<'_>, number: u32, parent: &str, name: &str) -> Vec<Gpu> {
    // Not supported by most GPUs, which is an error of the call.
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

/// A partition has no sensors of its own.
fn vitals(device: &Device<'_>) -> GpuStatus {
    let parent = device.mig_parent_device().ok();
    let sensors = parent.as_ref().unwrap_or(device);
    GpuStatus {
        temperature_c: sensors.temperature(TemperatureSensor::Gpu).ok(),
        utilization_percent: device.utilization_rates().ok().map(|rates| rates.gpu),
        power_w: sensors.power_usage().ok().map(|milliwatts| milliwatts / 1000),
    }
}

fn explain(error: &NvmlError) -> String {
    match error {
        NvmlError::LibloadingError(_) | NvmlError::LibraryNotFound => {
            "no NVIDIA driver on this machine (libnvidia-ml.so.1 is not found)".to_owned()
        }
        NvmlError::DriverNotLoaded => "the NVIDIA driver is installed but not loaded".to_owned(),
        NvmlError::LibRmVersionMismatch => {
            "the NVIDIA driver and its library are of different versions: restart the machine".to_owned()
        }
        NvmlError::NoPermission => "this user may not ask the NVIDIA driver".to_owned(),
        other => format!("the NVIDIA driver does not answer: {other}"),
    }
}
