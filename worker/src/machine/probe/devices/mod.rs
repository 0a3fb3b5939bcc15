//! Resolves the `--device` list of the command line to the devices of this machine that workers compute on.
//! The command line calls it once at the start.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use latentfarm_common::wire::memory::DeviceKind;

use super::reading::Gpu;

/// One entry of the `--device` list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceSelector {
    /// Every usable GPU, or the CPU if there is none.
    Auto,
    Cpu,
    /// The visible GPU with this index.
    Cuda(usize),
    /// The visible GPU or MIG partition whose UUID is this text or begins with it.
    Uuid(String),
    /// A GPU that is simulated from a file.
    Simulated(PathBuf),
}

/// The error for a text that names no device.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a device: auto, cpu, cuda:N, the UUID of a GPU (GPU-... or MIG-...) or sim:PATH")]
pub struct InvalidDeviceSelector(String);

impl FromStr for DeviceSelector {
    type Err = InvalidDeviceSelector;

    fn from_str(text: &str) -> Result<Self, InvalidDeviceSelector> {
        let invalid = || InvalidDeviceSelector(text.to_owned());
        match (text, text.split_once(':')) {
            ("auto", _) => Ok(Self::Auto),
            ("cpu", _) => Ok(Self::Cpu),
            _ if is_uuid(text) => Ok(Self::Uuid(text.to_owned())),
            (_, Some(("cuda", ordinal))) => ordinal.parse().map(Self::Cuda).map_err(|_| invalid()),
            (_, Some(("sim", path))) if !path.is_empty() => Ok(Self::Simulated(path.into())),
            _ => Err(invalid()),
        }
    }
}

/// Whether a text is, or begins, a UUID as the driver writes it.
fn is_uuid(text: &str) -> bool {
    let known = ["GPU-", "MIG-"]
        .iter()
        .filter_map(|prefix| text.strip_prefix(prefix));
    known.into_iter().any(|digits| {
        !digits.is_empty()
            && digits
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '/')
    })
}

/// A device that an engine computes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Device {
    Cpu,
    Cuda { ordinal: usize, gpu: Gpu },
    Simulated(PathBuf),
}

impl Device {
    pub fn kind(&self) -> DeviceKind {
        match self {
            Self::Cpu => DeviceKind::Cpu,
            Self::Cuda { .. } | Self::Simulated(_) => DeviceKind::Cuda,
        }
    }

    /// Returns the text that names the device to `--device`.
    pub fn selector(&self) -> String {
        match self {
            Self::Cpu => "cpu".to_owned(),
            Self::Cuda { gpu, .. } => gpu.uuid.clone(),
            Self::Simulated(path) => format!("sim:{}", path.display()),
        }
    }

    /// Returns a text that is unique among the devices of the host.
    pub fn key(&self) -> String {
        match self {
            Self::Cpu => "host".to_owned(),
            Self::Cuda { gpu, .. } => gpu.uuid.clone(),
            Self::Simulated(path) => {
                let real = std::fs::canonicalize(path).unwrap_or_else(|_| path.clone());
                format!("sim{}", real.display())
            }
        }
    }
}

#[cfg(test)]
impl Device {
    /// A GPU for tests, whose UUID is `GPU-` and its number.
    pub(crate) fn gpu_for_tests(number: u32) -> Self {
        Self::Cuda {
            ordinal: number as usize,
            gpu: Gpu::for_tests(number, &format!("GPU-{number}")),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda { ordinal, gpu } => write!(f, "cuda:{ordinal} {}", gpu.name),
            Self::Simulated(path) => {
                let name = path.file_stem().unwrap_or(path.as_os_str());
                write!(f, "sim:{}", Path::new(name).display())
            }
        }
    }
}

/// The devices and engines of a machine.
#[derive(Clone, Debug)]
pub struct Inventory {
    /// The visible GPUs, or in one line why there are none.
    pub gpus: Result<Vec<Gpu>, String>,
    /// The path of the CUDA engine; as an error if there is no file.
    pub cuda_engine: Result<PathBuf, PathBuf>,
    /// The GPUs that failed their check, by UUID, with the reasons.
    pub failed: BTreeMap<String, String>,
}

/// A device that is to be used and cannot be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedDevice {
    pub device: Device,
    /// Why, and what to do about it, in one line.
    pub reason: String,
}

/// The devices to work on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelectedDevices {
    pub devices: Vec<Device>,
    /// The GPUs that would be used too if they passed their check.
    pub failed: Vec<FailedDevice>,
    /// Why the CPU takes the place of a GPU, if it does.
    pub cpu_because: Option<String>,
}

/// Why a selector cannot be resolved.
#[derive(Debug, thiserror::Error)]
pub enum Unavailable {
    #[error("device `cuda:{ordinal}` cannot be used: {reason}")]
    Cuda { ordinal: usize, reason: String },
    #[error("device `{uuid}` cannot be used: {reason}")]
    Uuid { uuid: String, reason: String },
    #[error("device `{0}` is named twice")]
    Twice(Device),
    #[error("no device is named")]
    None,
}

/// Resolves selectors to devices, in their order. `auto` takes the usable GPUs, or the CPU if there is
/// none; a device that is named must be there. GPUs that failed their check are listed apart.
pub fn resolve(selectors: &[DeviceSelector], inventory: &Inventory) -> Result<SelectedDevices, Unavailable> {
    let usable = inventory.usable();
    let mut devices: Vec<Device> = Vec::new();
    let mut failed: Vec<FailedDevice> = Vec::new();
    let mut cpu_because = None;
    for selector in selectors {
        let found = match (selector, &usable) {
            (DeviceSelector::Cpu, _) => vec![Device::Cpu],
            (DeviceSelector::Simulated(path), _) => vec![Device::Simulated(path.clone())],
            (DeviceSelector::Auto, Ok(gpus)) => {
                let reasons: Vec<String> = gpus
                    .iter()
                    .filter_map(|gpu| Some(inventory.failure_of(gpu)?.describe()))
                    .collect();
                if reasons.len() == gpus.len() {
                    cpu_because = Some(reasons.join("; "));
                    failed.extend(gpus.iter().filter_map(|gpu| inventory.failure_of(gpu)));
                    vec![Device::Cpu]
                } else {
                    gpus.clone()
                }
            }
            (DeviceSelector::Auto, Err(reason)) => {
                cpu_because = Some(reason.clone());
                vec![Device::Cpu]
            }
            (DeviceSelector::Cuda(ordinal), Ok(gpus)) => {
                let found = gpus.get(*ordinal).ok_or_else(|| Unavailable::Cuda {
                    ordinal: *ordinal,
                    reason: format!("the visible GPUs are cuda:0 to cuda:{}", gpus.len() - 1),
                })?;
                vec![found.clone()]
            }
            (DeviceSelector::Uuid(uuid), gpus) => {
                let found = gpus.as_ref().map_err(Clone::clone);
                let found = found.and_then(|gpus| with_uuid(uuid, gpus));
                vec![found.map_err(|reason| Unavailable::Uuid {
                    uuid: uuid.clone(),
                    reason,
                })?]
            }
            (DeviceSelector::Cuda(ordinal), Err(reason)) => {
                return Err(Unavailable::Cuda {
                    ordinal: *ordinal,
                    reason: reason.clone(),
                });
            }
        };
        for device in found {
            if let Some(failure) = inventory.failure_of(&device) {
                if failed.contains(&failure) {
                    return Err(Unavailable::Twice(device));
                }
                failed.push(failure);
                continue;
            }
            match (devices.contains(&device), selector) {
                (false, _) => devices.push(device),
                // `auto,cpu` on a machine without a GPU.
                (true, _) if device == Device::Cpu => {}
                (true, _) => return Err(Unavailable::Twice(device)),
            }
        }
    }
    if devices.is_empty() && failed.is_empty() {
        return Err(Unavailable::None);
    }
    Ok(SelectedDevices {
        devices,
        failed,
        cpu_because,
    })
}

impl SelectedDevices {
    /// What the operator of a worker has to know, if the CPU takes the place of a GPU.
    pub fn note(&self) -> Option<String> {
        let reason = self.cpu_because.as_ref()?;
        Some(format!("{reason}; renders on the CPU"))
    }
}

impl FailedDevice {
    /// The device and the reason, in one line.
    pub fn describe(&self) -> String {
        format!("{} cannot be used: {}", self.device, self.reason)
    }
}

/// Returns the one GPU whose UUID begins with `text`, or in one line why there is no such GPU.
fn with_uuid(text: &str, gpus: &[Device]) -> Result<Device, String> {
    let named = gpus.iter().filter(|device| device.key().starts_with(text));
    let named: Vec<&Device> = named.collect();
    match named.as_slice() {
        [device] => Ok((*device).clone()),
        [] => {
            let visible: Vec<String> = gpus.iter().map(Device::key).collect();
            Err(format!("the visible GPUs are {}", visible.join(", ")))
        }
        several => Err(format!("{} GPUs have a UUID that begins so", several.len())),
    }
}

impl Inventory {
    /// The failed check of a device, if it failed it.
    fn failure_of(&self, device: &Device) -> Option<FailedDevice> {
        let Device::Cuda { gpu, .. } = device else {
            return None;
        };
        let reason = self.failed.get(&gpu.uuid)?.clone();
        Some(FailedDevice {
            device: device.clone(),
            reason,
        })
    }

    /// Returns the GPUs that an engine can compute on, never an empty list, or in one line why there are
    /// none.
    fn usable(&self) -> Result<Vec<Device>, String> {
        let gpus = self.gpus.as_ref().map_err(Clone::clone)?;
        if gpus.is_empty() {
            return Err("no GPU is visible".to_owned());
        }
        if let Err(path) = &self.cuda_engine {
            return Err(format!(
                "there is a GPU ({}) but no CUDA engine `{}`",
                gpus[0].name,
                path.display()
            ));
        }
        let devices = gpus.iter().enumerate().map(|(ordinal, gpu)| Device::Cuda {
            ordinal,
            gpu: gpu.clone(),
        });
        Ok(devices.collect())
    }
}

#[cfg(test)]
mod tests;
