//! The one device that `bench` and `memtest` compute on, and the engine that is started for it.

use std::path::PathBuf;

use super::engine_program::ensure_installed;
use super::engines::Engines;
use crate::machine::device_check::CHECK_LIMIT;
use crate::machine::probe::{DeviceSelector, Probe};

/// The arguments that name the device and its engine.
#[derive(clap::Args, Debug)]
pub(super) struct OneDeviceArgs {
    /// Device to compute on: `cpu`, `auto` (the first usable GPU, or the CPU if there is none), `cuda:N`
    /// (counted within `CUDA_VISIBLE_DEVICES`), a GPU's UUID (`GPU-...`, or `MIG-...` for a partition) or a
    /// beginning of it, or `sim:PATH` (a GPU that a file simulates)
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    device: DeviceSelector,
    /// Engine program for the device (default: beside this program, latentfarm-engine-cuda for a GPU and
    /// latentfarm-engine for the others)
    #[arg(long, value_name = "PATH")]
    engine: Option<PathBuf>,
}

/// An engine on one device, as it is started.
#[derive(Clone, Debug)]
pub(super) struct DeviceEngine {
    pub(super) program: PathBuf,
    /// The value of the engine's `--device`.
    pub(super) device: String,
    /// The environment variables by which the engine sees the device alone.
    pub(super) envs: Vec<(String, String)>,
    /// Whether the engine computes on a GPU, which is not simulated.
    pub(super) is_gpu: bool,
}

impl OneDeviceArgs {
    /// Returns the engine for the device that the arguments name on this machine.
    ///
    /// # Errors
    /// Fails if the machine has no such device that can be used.
    pub(super) fn choose(&self) -> anyhow::Result<DeviceEngine> {
        let probe = Probe::for_devices(std::slice::from_ref(&self.device));
        let named = self.engine.as_deref();
        let mut engines = Engines::new(named, named, CHECK_LIMIT)?;
        let (device, cpu_because) = engines.choose(&self.device, &probe)?;
        if let Some(reason) = cpu_because {
            tracing::info!("{reason}; this command runs on the CPU");
        }
        let (program, text, envs) = engines.command(&device);
        if !envs.is_empty() {
            tracing::info!(%device, "the engine sees this GPU alone, as cuda:0");
        }
        Ok(DeviceEngine {
            program: program.to_owned(),
            device: text,
            is_gpu: !envs.is_empty(),
            envs,
        })
    }

    /// Refuses an engine program that the user named and that does not exist, or the missing engine for the CPU and
    /// simulated GPUs.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        match (&self.engine, &self.device) {
            (Some(named), _) => ensure_installed(named),
            (None, DeviceSelector::Cpu | DeviceSelector::Simulated(_)) => {
                ensure_installed(&Engines::new(None, None, CHECK_LIMIT)?.host)
            }
            // Whether there is an engine for a GPU is a part of whether the GPU can be used.
            (None, _) => Ok(()),
        }
    }
}
