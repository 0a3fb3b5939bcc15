//! What the command line decides about a runner and its children.

use std::path::PathBuf;
use std::time::Duration;

use super::child::ChildCommand;
use crate::machine::choice::Limits;
use crate::machine::probe::Device;

/// How a worker runs its children.
#[derive(Clone, Debug)]
pub struct RunnerSettings {
    pub weights_dir: PathBuf,
    /// Where the engine computes: tasks for devices of another kind are not for this runner.
    pub device: Device,
    pub media: ChildCommand,
    pub engine: ChildCommand,
    /// Where segments are encoded and fetched blobs are kept while a task runs.
    pub scratch: PathBuf,
    pub limits: Limits,
    /// Uses of memory, in GiB, that are warned of.
    pub warn_gib: Vec<u64>,
    /// Folder of the promises between this host's workers.
    pub claims: PathBuf,
    /// A child that says nothing for so long is taken for hung, unless it is known how long its work takes.
    pub silence_limit: Duration,
}
