//! The driver that lists the GPUs and reads their memory: NVIDIA's, or a stand-in from a file.

use std::path::PathBuf;

use super::nvml::Nvidia;
use super::reading::{Gpu, Reading};
use super::stand_in::StandIn;

#[derive(Debug)]
pub(super) enum Driver {
    Nvidia(Box<Nvidia>),
    StandIn(StandIn),
}

impl Driver {
    /// Opens the driver's library; the error is one line for people if there is no driver or a broken one.
    pub(super) fn open() -> Result<Self, String> {
        Nvidia::open().map(|driver| Self::Nvidia(Box::new(driver)))
    }

    /// Reads everything from a file.
    pub(super) fn stand_in(path: PathBuf) -> Self {
        Self::StandIn(StandIn::new(path))
    }

    /// Returns every GPU and partition that the driver lists for this process, in the order of their slots.
    pub(super) fn gpus(&self) -> Result<Vec<Gpu>, String> {
        match self {
            Self::Nvidia(driver) => driver.gpus(),
            Self::StandIn(file) => file.gpus(),
        }
    }

    /// Returns the version of the driver.
    pub(super) fn version(&self) -> Option<String> {
        match self {
            Self::Nvidia(driver) => driver.version(),
            Self::StandIn(file) => file.version(),
        }
    }

    /// Reads the memory of one GPU or partition, and the sensors of the GPU.
    pub(super) fn read(&self, uuid: &str) -> Result<Reading, String> {
        match self {
            Self::Nvidia(driver) => driver.read(uuid),
            Self::StandIn(file) => file.read(uuid),
        }
    }
}
