//! How the runner starts and limits its children, as the command line sets it.

use std::path::PathBuf;
use std::time::Duration;

use super::child::ChildCommand;
use super::weights::WeightsSource;
use crate::machine::admission::MemoryLimits;
use crate::machine::idle_gate::IdleGate;
use crate::machine::probe::Device;

/// The settings of one runner, that is, of one device.
#[derive(Clone, Debug)]
pub struct RunnerSettings {
    pub weights: WeightsSource,
    /// The device that the engine computes on. The runner refuses tasks for devices of another kind.
    pub device: Device,
    pub media: ChildCommand,
    pub engine: ChildCommand,
    /// The folder that holds encoded segments and fetched blobs. It is emptied before the first task.
    pub scratch: PathBuf,
    pub limits: MemoryLimits,
    /// The thresholds of memory use, in GiB, above which a warning is logged.
    pub warn_gib: Vec<u64>,
    /// The folder in which this host's workers record their memory reservations, and which of them has a GPU.
    pub reservations_dir: PathBuf,
    /// Keeps the worker off a GPU that other programs use, if it is to be.
    pub idle_gate: Option<IdleGate>,
    /// How long the engine may go on with task after task while another worker of this host waits for the GPU.
    pub device_turn: Duration,
    /// A child that sends nothing for so long is killed as hung, until it is known how long its requests
    /// take.
    pub silence_limit: Duration,
}
