//! The options about devices and memory that `run` and `probe` share, and what they choose on this machine.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use latentfarm_common::ids::WorkerId;

use super::engines::Engines;
use crate::machine::admission::MemoryLimits;
use crate::machine::device_check::CHECK_LIMIT;
use crate::machine::probe::{Device, DeviceSelector, Inventory, Probe, SelectedDevices};

#[derive(clap::Args, Clone, Debug)]
pub(super) struct DeviceArgs {
    /// Devices to compute on, separated by commas: `auto` (every usable GPU, or the CPU if there is none),
    /// `cpu`, `cuda:N` (counted within `CUDA_VISIBLE_DEVICES`), a GPU's UUID (`GPU-...`, or `MIG-...` for a
    /// partition) or a beginning of it, or `sim:PATH` (a GPU that a file simulates)
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
    /// Engine program for GPUs (default: those beside this program whose names begin with latentfarm-engine-cuda;
    /// the first that passes its check on a GPU is used for it)
    #[arg(long, value_name = "PATH")]
    engine_cuda: Option<PathBuf>,
    /// Take the GPUs from a JSON file and not from the driver, for tests
    #[arg(long, value_name = "FILE", hide = true)]
    gpus_from: Option<PathBuf>,
    /// Seconds after which the check of a GPU has failed
    #[arg(long, value_name = "SECONDS", default_value_t = CHECK_LIMIT.as_secs(), hide = true)]
    check_limit: u64,
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
        let limit = Duration::from_secs(self.check_limit);
        Engines::new(self.engine.as_deref(), self.engine_cuda.as_deref(), limit)
    }

    /// Makes the probe, and opens the GPU driver only if the list needs it.
    pub(super) fn probe(&self) -> Probe {
        match &self.gpus_from {
            Some(path) => Probe::stand_in(path.clone()),
            None => Probe::for_devices(&self.device),
        }
    }

    /// Returns the devices to compute on, or why there are none, and the inventory of the machine.
    pub(super) fn select(
        &self,
        probe: &Probe,
        engines: &mut Engines,
    ) -> (anyhow::Result<SelectedDevices>, Inventory) {
        let (selected, inventory) = engines.select(&self.device, probe);
        (selected.map_err(anyhow::Error::new), inventory)
    }
}

/// Names one worker for each device of this process: the only device gets `name`, several get a suffix each.
pub(super) fn worker_names(name: &WorkerId, devices: &[Device]) -> anyhow::Result<Vec<WorkerId>> {
    if devices.len() == 1 {
        return Ok(vec![name.clone()]);
    }
    let mut gpus = 0;
    let names = devices.iter().map(|device| {
        let named = match device {
            Device::Cpu => name.of_cpu(),
            Device::Cuda { .. } | Device::Simulated(_) => {
                gpus += 1;
                name.of_gpu(gpus - 1)
            }
        };
        named.context("give a shorter --name")
    });
    names.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_device_has_a_worker_name_and_the_only_one_has_the_given_one() {
        let name: WorkerId = "box".parse().unwrap();
        let names = |devices: &[Device]| -> Vec<String> {
            let names = worker_names(&name, devices).unwrap();
            names.iter().map(ToString::to_string).collect()
        };
        assert_eq!(names(&[Device::gpu_for_tests(3)]), ["box"]);
        assert_eq!(names(&[Device::Cpu]), ["box"]);
        assert_eq!(
            names(&[
                Device::gpu_for_tests(0),
                Device::Cpu,
                Device::Simulated("a".into())
            ]),
            ["box-g0", "box-cpu", "box-g1"]
        );
        let long: WorkerId = "x".repeat(39).parse().unwrap();
        let error = worker_names(&long, &[Device::gpu_for_tests(0), Device::gpu_for_tests(1)]).unwrap_err();
        assert!(error.to_string().contains("shorter --name"), "{error}");
    }
}
