//! Resolves the `--device` list of the command line to the devices of this machine that workers compute on.
//! The command line calls it once at the start.

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
    /// A GPU that is simulated from a file.
    Simulated(PathBuf),
}

/// The error for a text that names no device.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a device: auto, cpu, cuda:N or sim:PATH")]
pub struct InvalidDeviceSelector(String);

impl FromStr for DeviceSelector {
    type Err = InvalidDeviceSelector;

    fn from_str(text: &str) -> Result<Self, InvalidDeviceSelector> {
        let invalid = || InvalidDeviceSelector(text.to_owned());
        match (text, text.split_once(':')) {
            ("auto", _) => Ok(Self::Auto),
            ("cpu", _) => Ok(Self::Cpu),
            (_, Some(("cuda", ordinal))) => ordinal.parse().map(Self::Cuda).map_err(|_| invalid()),
            (_, Some(("sim", path))) if !path.is_empty() => Ok(Self::Simulated(path.into())),
            _ => Err(invalid()),
        }
    }
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
}

/// The devices to work on, with a note for the operator if the CPU is used for want of a GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelectedDevices {
    pub devices: Vec<Device>,
    pub note: Option<String>,
}

/// Why a selector cannot be resolved.
#[derive(Debug, thiserror::Error)]
pub enum Unavailable {
    #[error("device `cuda:{ordinal}` cannot be used: {reason}")]
    Cuda { ordinal: usize, reason: String },
    #[error("device `{0}` is named twice")]
    Twice(Device),
    #[error("no device is named")]
    None,
}

/// Resolves selectors to devices, in their order. `auto` takes the usable GPUs, or the CPU with a note why
/// there is none; a device that is named must be there.
pub fn resolve(selectors: &[DeviceSelector], inventory: &Inventory) -> Result<SelectedDevices, Unavailable> {
    let usable = inventory.usable();
    let mut devices: Vec<Device> = Vec::new();
    let mut note = None;
    for selector in selectors {
        let found = match (selector, &usable) {
            (DeviceSelector::Cpu, _) => vec![Device::Cpu],
            (DeviceSelector::Simulated(path), _) => vec![Device::Simulated(path.clone())],
            (DeviceSelector::Auto, Ok(gpus)) => gpus.clone(),
            (DeviceSelector::Auto, Err(reason)) => {
                note = Some(format!("{reason}; renders on the CPU"));
                vec![Device::Cpu]
            }
            (DeviceSelector::Cuda(ordinal), Ok(gpus)) => {
                let found = gpus.get(*ordinal).ok_or_else(|| Unavailable::Cuda {
                    ordinal: *ordinal,
                    reason: format!("the visible GPUs are cuda:0 to cuda:{}", gpus.len() - 1),
                })?;
                vec![found.clone()]
            }
            (DeviceSelector::Cuda(ordinal), Err(reason)) => {
                return Err(Unavailable::Cuda {
                    ordinal: *ordinal,
                    reason: reason.clone(),
                });
            }
        };
        for device in found {
            match (devices.contains(&device), selector) {
                (false, _) => devices.push(device),
                // `auto,cpu` on a machine without a GPU.
                (true, _) if device == Device::Cpu => {}
                (true, _) => return Err(Unavailable::Twice(device)),
            }
        }
    }
    if devices.is_empty() {
        return Err(Unavailable::None);
    }
    Ok(SelectedDevices { devices, note })
}

impl Inventory {
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
mod tests {
    use super::*;

    fn gpus(count: u32) -> Vec<Gpu> {
        let gpu = |number| Gpu {
            uuid: format!("GPU-{number}"),
            name: "NVIDIA L4".to_owned(),
            number,
            parent: None,
            is_partitioned: false,
        };
        (0..count).map(gpu).collect()
    }

    fn inventory(gpus: Result<Vec<Gpu>, &str>, engine: bool) -> Inventory {
        let path = PathBuf::from("/opt/latentfarm-engine-cuda");
        Inventory {
            gpus: gpus.map_err(str::to_owned),
            cuda_engine: if engine { Ok(path) } else { Err(path) },
        }
    }

    fn names(selectors: &str, inventory: &Inventory) -> Result<String, String> {
        let selectors: Vec<DeviceSelector> = selectors.split(',').map(|text| text.parse().unwrap()).collect();
        let chosen = resolve(&selectors, inventory).map_err(|error| error.to_string())?;
        let names: Vec<String> = chosen.devices.iter().map(ToString::to_string).collect();
        Ok(names.join(", ") + &chosen.note.map(|note| format!(" ({note})")).unwrap_or_default())
    }

    #[test]
    fn auto_takes_every_gpu_and_the_cpu_only_where_there_is_none_or_it_is_asked_for() {
        let two = inventory(Ok(gpus(2)), true);
        assert_eq!(names("auto", &two).unwrap(), "cuda:0 NVIDIA L4, cuda:1 NVIDIA L4");
        assert_eq!(
            names("auto,cpu", &two).unwrap(),
            "cuda:0 NVIDIA L4, cuda:1 NVIDIA L4, cpu"
        );
        let none = inventory(Err("no NVIDIA driver on this machine"), true);
        assert_eq!(
            names("auto", &none).unwrap(),
            "cpu (no NVIDIA driver on this machine; renders on the CPU)"
        );
        assert_eq!(
            names("auto,cpu", &none).unwrap(),
            "cpu (no NVIDIA driver on this machine; renders on the CPU)"
        );
        let hidden = inventory(Ok(Vec::new()), true);
        assert_eq!(
            names("auto", &hidden).unwrap(),
            "cpu (no GPU is visible; renders on the CPU)"
        );
        let no_engine = inventory(Ok(gpus(1)), false);
        assert_eq!(
            names("auto", &no_engine).unwrap(),
            "cpu (there is a GPU (NVIDIA L4) but no CUDA engine `/opt/latentfarm-engine-cuda`; renders on the CPU)"
        );
    }

    #[test]
    fn a_device_that_is_named_must_be_there_once() {
        let two = inventory(Ok(gpus(2)), true);
        assert_eq!(names("cuda:1", &two).unwrap(), "cuda:1 NVIDIA L4");
        assert_eq!(
            names("cuda:2", &two).unwrap_err(),
            "device `cuda:2` cannot be used: the visible GPUs are cuda:0 to cuda:1"
        );
        let none = inventory(Err("no NVIDIA driver on this machine"), true);
        assert_eq!(
            names("cuda:0", &none).unwrap_err(),
            "device `cuda:0` cannot be used: no NVIDIA driver on this machine"
        );
        assert_eq!(
            names("cuda:0,cuda:0", &two).unwrap_err(),
            "device `cuda:0 NVIDIA L4` is named twice"
        );
        assert_eq!(names("sim:/tmp/a.gpu,cpu", &none).unwrap(), "sim:a, cpu");
    }

    #[test]
    fn text_that_is_no_device_is_refused() {
        for text in ["", "gpu", "cuda", "cuda:", "cuda:x", "cuda:-1", "sim:", "cpu:0"] {
            assert!(text.parse::<DeviceSelector>().is_err(), "{text}");
        }
    }
}
