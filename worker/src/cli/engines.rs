//! The engine programs of this machine, and which of them each device is given.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::anyhow;

use super::caches::user_caches;
use super::engine_program::program_path;
use crate::machine::device_check::DeviceChecker;
use crate::machine::probe::{
    Device, DeviceSelector, Inventory, Probe, SelectedDevices, Unavailable, resolve,
};

/// The beginning of the names of engine programs for GPUs.
const CUDA_ENGINE: &str = "latentfarm-engine-cuda";

/// The engine programs, one for the CPU and simulated GPUs, and those for CUDA.
#[derive(Clone, Debug)]
pub(super) struct Engines {
    pub(super) host: PathBuf,
    /// The programs for GPUs, in the order in which they are tried; one of them may be missing.
    cuda: Vec<PathBuf>,
    /// The program for each GPU, by UUID.
    chosen: BTreeMap<String, PathBuf>,
    check_limit: Duration,
}

impl Engines {
    /// Returns the programs that the user named, or else those beside this program. A check of a GPU that takes longer than
    /// `check_limit` has failed.
    pub(super) fn new(
        host: Option<&Path>,
        cuda: Option<&Path>,
        check_limit: Duration,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            host: program_path(host, "latentfarm-engine")?,
            cuda: cuda.map_or_else(cuda_engines, |path| Ok(vec![path.to_owned()]))?,
            chosen: BTreeMap::new(),
            check_limit,
        })
    }

    /// Returns what checks GPUs with these programs.
    pub(super) fn checker(&self, probe: &Probe) -> DeviceChecker {
        DeviceChecker {
            engines: self.cuda.clone(),
            driver: probe.driver_version(),
            passes: passes_file(),
            limit: self.check_limit,
        }
    }

    /// Returns the devices that selectors name, or why there are none, and the inventory of the machine. Each GPU that is
    /// going to be used is checked first, which chooses its engine.
    pub(super) fn select(
        &mut self,
        selectors: &[DeviceSelector],
        probe: &Probe,
    ) -> (Result<SelectedDevices, Unavailable>, Inventory) {
        let usual = self.cuda.first().cloned().unwrap_or_default();
        let mut inventory = probe.inventory(usual);
        let wanted = resolve(selectors, &inventory).map(|selected| selected.devices);
        let checker = self.checker(probe);
        for device in wanted.iter().flatten() {
            let Device::Cuda { gpu, .. } = device else {
                continue;
            };
            match checker.engine_for(gpu) {
                Ok(engine) => {
                    self.chosen.insert(gpu.uuid.clone(), engine);
                }
                Err(reason) => {
                    inventory.failed.insert(gpu.uuid.clone(), reason);
                }
            }
        }
        let selected = resolve(selectors, &inventory);
        (selected, inventory)
    }

    /// Chooses the one device that a selector names. `auto` takes the first usable GPU, or the CPU if there is none: the
    /// reason for that comes with it.
    pub(super) fn choose(
        &mut self,
        selector: &DeviceSelector,
        probe: &Probe,
    ) -> anyhow::Result<(Device, Option<String>)> {
        let (selected, _) = self.select(std::slice::from_ref(selector), probe);
        let SelectedDevices {
            devices,
            failed,
            cpu_because,
        } = selected?;
        match (devices.into_iter().next(), failed.first()) {
            (Some(first), _) => Ok((first, cpu_because)),
            (None, Some(failed)) => Err(anyhow!("{}", failed.describe())),
            (None, None) => Err(Unavailable::None.into()),
        }
    }

    /// Returns the program for a device, the value of its `--device`, and the variables of its environment.
    pub(super) fn command(&self, device: &Device) -> (&Path, String, Vec<(String, String)>) {
        match device {
            Device::Cpu => (&self.host, "cpu".to_owned(), Vec::new()),
            Device::Simulated(path) => (&self.host, format!("sim:{}", path.display()), Vec::new()),
            // Only this GPU is visible to the engine, so that CUDA and NVML need not number GPUs alike.
            Device::Cuda { gpu, .. } => {
                let visible = ("CUDA_VISIBLE_DEVICES".to_owned(), gpu.uuid.clone());
                let chosen = self.chosen.get(&gpu.uuid).or(self.cuda.first());
                (chosen.unwrap_or(&self.host), "cuda:0".to_owned(), vec![visible])
            }
        }
    }
}

/// Returns the engine programs for GPUs beside this program, in the order of their names; that of the usual one if there
/// is none.
fn cuda_engines() -> anyhow::Result<Vec<PathBuf>> {
    let usual = program_path(None, CUDA_ENGINE)?;
    let is_engine = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.starts_with(CUDA_ENGINE) && !name.contains('.')) && path.is_file()
    };
    let folder = usual.parent().map(Path::read_dir);
    let entries = folder.into_iter().flatten().flatten().flatten();
    let mut found: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(is_engine).collect();
    found.sort();
    if found.is_empty() {
        found.push(usual);
    }
    Ok(found)
}

/// Returns the file in which this user's workers keep which GPUs passed their check.
fn passes_file() -> Option<PathBuf> {
    Some(user_caches()?.join("gpu-checks.json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_on_a_gpu_sees_that_gpu_alone() {
        let engines = Engines {
            host: "/opt/latentfarm-engine".into(),
            cuda: vec![
                "/opt/latentfarm-engine-cuda".into(),
                "/opt/latentfarm-engine-cuda-sm75".into(),
            ],
            chosen: BTreeMap::from([("GPU-2".to_owned(), "/opt/latentfarm-engine-cuda-sm75".into())]),
            check_limit: Duration::from_secs(1),
        };
        let (program, device, envs) = engines.command(&Device::gpu_for_tests(1));
        assert_eq!(program, Path::new("/opt/latentfarm-engine-cuda"));
        let chosen = Device::gpu_for_tests(2);
        assert_eq!(
            engines.command(&chosen).0,
            Path::new("/opt/latentfarm-engine-cuda-sm75")
        );
        assert_eq!(device, "cuda:0");
        assert_eq!(envs, [("CUDA_VISIBLE_DEVICES".to_owned(), "GPU-1".to_owned())]);
        let (program, device, envs) = engines.command(&Device::Simulated("/tmp/a.gpu".into()));
        assert_eq!(program, Path::new("/opt/latentfarm-engine"));
        assert_eq!((device.as_str(), envs.len()), ("sim:/tmp/a.gpu", 0));
    }
}
