//! The options about devices and memory that `run` and `probe` share, and what they choose on this machine.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use latentfarm_common::ids::WorkerId;

use super::engine_program::program_path;
use crate::machine::admission::MemoryLimits;
use crate::machine::probe::{Device, DeviceSelector, Inventory, Probe, SelectedDevices, resolve};

#[derive(clap::Args, Debug)]
pub(super) struct DeviceArgs {
    /// Devices to compute on, separated by commas: `auto` (every usable GPU, or the CPU if there is none),
    /// `cpu`, `cuda:N` (counted within `CUDA_VISIBLE_DEVICES`), or `sim:PATH` (a GPU that a file simulates)
    ///
    /// Each device has its own engine and pulls its own tasks. A single device is the worker NAME; several
    /// are the workers NAME-g0, NAME-g1 and NAME-cpu. A machine with a GPU renders on its CPU only if `cpu`
    /// is in the list, because a chunk takes many times longer there.
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "auto")]
    device: Vec<DeviceSelector>,
    /// Host memory that the worker leaves free, in MiB (default: 512, or an eighth of the host's memory if that
    /// is less)
    #[arg(long, value_name = "MIB")]
    reserve: Option<u64>,
    /// Memory that the worker leaves free on each GPU, in MiB (default: 256, or a sixteenth of the GPU's memory
    /// if that is less)
    #[arg(long, value_name = "MIB")]
    reserve_device: Option<u64>,
    /// Host memory that the worker's processes may use together, in MiB (default: all that is free)
    #[arg(long, value_name = "MIB")]
    memory_limit: Option<u64>,
    /// Engine program (default: latentfarm-engine beside this program)
    #[arg(long, value_name = "PATH")]
    engine: Option<PathBuf>,
    /// Engine program for GPUs (default: latentfarm-engine-cuda beside this program)
    #[arg(long, value_name = "PATH")]
    engine_cuda: Option<PathBuf>,
}

/// The engine programs, one for the CPU and simulated GPUs and one for CUDA.
#[derive(Clone, Debug)]
pub(super) struct Engines {
    pub(super) host: PathBuf,
    cuda: PathBuf,
}

impl Engines {
    /// Returns the program for a device, the value of its `--device`, and the variables of its environment.
    pub(super) fn command(&self, device: &Device) -> (&Path, String, Vec<(String, String)>) {
        match device {
            Device::Cpu => (&self.host, "cpu".to_owned(), Vec::new()),
            Device::Simulated(path) => (&self.host, format!("sim:{}", path.display()), Vec::new()),
            // Only this GPU is visible to the engine, so that CUDA and NVML need not number GPUs alike.
            Device::Cuda { gpu, .. } => {
                let visible = ("CUDA_VISIBLE_DEVICES".to_owned(), gpu.uuid.clone());
                (&self.cuda, "cuda:0".to_owned(), vec![visible])
            }
        }
    }
}

impl DeviceArgs {
    /// Returns the bounds on the memory that the worker uses.
    pub(super) fn limits(&self) -> MemoryLimits {
        MemoryLimits {
            reserve_mib: self.reserve,
            reserve_device_mib: self.reserve_device,
            memory_limit_mib: self.memory_limit,
        }
    }

    /// Returns the engine programs, whether they exist or not.
    pub(super) fn engines(&self) -> anyhow::Result<Engines> {
        Ok(Engines {
            host: program_path(self.engine.as_deref(), "latentfarm-engine")?,
            cuda: program_path(self.engine_cuda.as_deref(), "latentfarm-engine-cuda")?,
        })
    }

    /// Whether the list of devices is `auto`, as it is by default.
    pub(super) fn is_auto(&self) -> bool {
        self.device == [DeviceSelector::Auto]
    }

    /// Makes the probe, and opens the GPU driver only if the list needs it.
    pub(super) fn probe(&self) -> Probe {
        let needs_driver =
            |selector: &DeviceSelector| matches!(selector, DeviceSelector::Auto | DeviceSelector::Cuda(_));
        if self.device.iter().any(needs_driver) {
            Probe::open()
        } else {
            Probe::without_driver()
        }
    }

    /// Returns the devices to compute on, or why there are none, and the inventory of the machine.
    pub(super) fn select(
        &self,
        probe: &Probe,
        engines: &Engines,
    ) -> (anyhow::Result<SelectedDevices>, Inventory) {
        let inventory = probe.inventory(engines.cuda.clone());
        let selected = resolve(&self.device, &inventory).map_err(anyhow::Error::new);
        (selected, inventory)
    }
}

/// Names one worker for each device of this process: the only device gets `name`, several get a suffix each.
pub(super) fn worker_names(name: &WorkerId, devices: &[Device]) -> anyhow::Result<Vec<WorkerId>> {
    if devices.len() == 1 {
        return Ok(vec![name.clone()]);
    }
    let mut gpus = 0_u32;
    let names = devices.iter().map(|device| {
        let suffix = match device {
            Device::Cpu => "cpu".to_owned(),
            Device::Cuda { .. } | Device::Simulated(_) => {
                gpus += 1;
                format!("g{}", gpus - 1)
            }
        };
        let text = format!("{name}-{suffix}");
        text.parse()
            .with_context(|| format!("`{text}` is not a worker name; give a shorter --name"))
    });
    names.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::probe::Gpu;

    fn gpu(number: u32) -> Device {
        Device::Cuda {
            ordinal: usize::try_from(number).unwrap(),
            gpu: Gpu {
                uuid: format!("GPU-{number}"),
                name: "NVIDIA L4".to_owned(),
                number,
                parent: None,
                is_partitioned: false,
            },
        }
    }

    #[test]
    fn every_device_has_a_worker_name_and_the_only_one_has_the_given_one() {
        let name: WorkerId = "box".parse().unwrap();
        let names = |devices: &[Device]| -> Vec<String> {
            let names = worker_names(&name, devices).unwrap();
            names.iter().map(ToString::to_string).collect()
        };
        assert_eq!(names(&[gpu(3)]), ["box"]);
        assert_eq!(names(&[Device::Cpu]), ["box"]);
        assert_eq!(
            names(&[gpu(0), Device::Cpu, Device::Simulated("a".into())]),
            ["box-g0", "box-cpu", "box-g1"]
        );
        let long: WorkerId = "x".repeat(39).parse().unwrap();
        let error = worker_names(&long, &[gpu(0), gpu(1)]).unwrap_err();
        assert!(error.to_string().contains("shorter --name"), "{error}");
    }

    #[test]
    fn an_engine_on_a_gpu_sees_that_gpu_alone() {
        let engines = Engines {
            host: "/opt/latentfarm-engine".into(),
            cuda: "/opt/latentfarm-engine-cuda".into(),
        };
        let (program, device, envs) = engines.command(&gpu(1));
        assert_eq!(program, Path::new("/opt/latentfarm-engine-cuda"));
        assert_eq!(device, "cuda:0");
        assert_eq!(envs, [("CUDA_VISIBLE_DEVICES".to_owned(), "GPU-1".to_owned())]);
        let (program, device, envs) = engines.command(&Device::Simulated("/tmp/a.gpu".into()));
        assert_eq!(program, Path::new("/opt/latentfarm-engine"));
        assert_eq!((device.as_str(), envs.len()), ("sim:/tmp/a.gpu", 0));
    }
}
