//! Options about devices and memory, shared by `run` and `probe`.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use latentfarm_common::ids::WorkerId;

use super::engine;
use crate::machine::choice::Limits;
use crate::machine::probe::{Chosen, Device, Inventory, Probe, Wish, resolve};

#[derive(clap::Args, Debug)]
pub(super) struct DeviceArgs {
    /// Where to compute: `auto` (every usable GPU, or the CPU where there is none), `cpu`, `cuda:N` (as counted within
    /// `CUDA_VISIBLE_DEVICES`), or `sim:PATH` (a GPU played by a file); several with commas, such as `auto,cpu`
    ///
    /// Each device has an engine of its own and takes tasks for itself, as worker NAME where it is the only one, else
    /// as NAME-g0, NAME-g1 and NAME-cpu. A machine with a GPU renders on its CPU only if that is named here: a chunk
    /// takes many times longer there, and the coordinator has the choice among all CPU workers.
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "auto")]
    device: Vec<Wish>,
    /// Host memory that is never used, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 512)]
    reserve: u64,
    /// Memory of each GPU that is never used, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 256)]
    reserve_device: u64,
    /// Host memory that the worker's processes may use together, in MiB (default: whatever is free)
    #[arg(long, value_name = "MIB")]
    memory_limit: Option<u64>,
    /// Engine program (default: latentfarm-engine beside this program)
    #[arg(long, value_name = "PATH")]
    engine: Option<PathBuf>,
    /// Engine program for GPUs (default: latentfarm-engine-cuda beside this program)
    #[arg(long, value_name = "PATH")]
    engine_cuda: Option<PathBuf>,
}

/// The engine programs.
#[derive(Clone, Debug)]
pub(super) struct Engines {
    pub(super) host: PathBuf,
    cuda: PathBuf,
}

impl Engines {
    /// The program for a device, what it is told about it, and its environment.
    pub(super) fn command(&self, device: &Device) -> (&Path, String, Vec<(String, String)>) {
        match device {
            Device::Cpu => (&self.host, "cpu".to_owned(), Vec::new()),
            Device::Simulated(path) => (&self.host, format!("sim:{}", path.display()), Vec::new()),
            // It sees this GPU alone, so that no two ways of counting have to agree.
            Device::Cuda { gpu, .. } => {
                let visible = ("CUDA_VISIBLE_DEVICES".to_owned(), gpu.uuid.clone());
                (&self.cuda, "cuda:0".to_owned(), vec![visible])
            }
        }
    }
}

impl DeviceArgs {
    pub(super) fn limits(&self) -> Limits {
        Limits {
            reserve_mib: self.reserve,
            reserve_device_mib: self.reserve_device,
            memory_limit_mib: self.memory_limit,
        }
    }

    pub(super) fn engines(&self) -> anyhow::Result<Engines> {
        Ok(Engines {
            host: engine::beside(self.engine.as_deref(), "latentfarm-engine")?,
            cuda: engine::beside(self.engine_cuda.as_deref(), "latentfarm-engine-cuda")?,
        })
    }

    /// Nothing is named.
    pub(super) fn is_auto(&self) -> bool {
        self.device == [Wish::Auto]
    }

    /// Opens the driver only where a GPU is asked for.
    pub(super) fn probe(&self) -> Probe {
        let needs_driver = |wish: &Wish| matches!(wish, Wish::Auto | Wish::Cuda(_));
        if self.device.iter().any(needs_driver) {
            Probe::open()
        } else {
            Probe::without_driver()
        }
    }

    /// The devices to compute on, and what the machine has.
    pub(super) fn choose(&self, probe: &Probe, engines: &Engines) -> (anyhow::Result<Chosen>, Inventory) {
        let inventory = probe.inventory(engines.cuda.clone());
        let chosen = resolve(&self.device, &inventory).map_err(anyhow::Error::new);
        (chosen, inventory)
    }
}

/// Names of the workers on these devices, which are one process: that of the only one is the given one.
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
            .with_context(|| format!("`{text}` is no worker name; give a shorter --name"))
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
