//! GPUs from a file, in place of those of the driver. Tests write the file, so that machines without a GPU run what
//! chooses, checks and reads GPUs.

use std::path::PathBuf;

use latentfarm_common::error::one_line;
use latentfarm_common::wire::outcome::GpuStatus;
use serde::Deserialize;

use super::reading::{Gpu, Reading};

/// The path of the file, which is read anew at each call.
#[derive(Debug)]
pub(super) struct StandIn {
    path: PathBuf,
}

/// The JSON in the file.
#[derive(Deserialize)]
struct Machine {
    driver: String,
    gpus: Vec<StandInGpu>,
}

#[derive(Deserialize)]
struct StandInGpu {
    uuid: String,
    name: String,
    free_mib: u64,
    total_mib: u64,
}

impl StandIn {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    pub(super) fn gpus(&self) -> Result<Vec<Gpu>, String> {
        let gpus = (0..).zip(self.machine()?.gpus).map(|(number, gpu)| Gpu {
            uuid: gpu.uuid,
            name: gpu.name,
            number,
            parent: None,
            is_partitioned: false,
        });
        Ok(gpus.collect())
    }

    pub(super) fn version(&self) -> Option<String> {
        Some(self.machine().ok()?.driver)
    }

    pub(super) fn read(&self, uuid: &str) -> Result<Reading, String> {
        let mut gpus = self.machine()?.gpus.into_iter();
        let gpu = gpus.find(|gpu| gpu.uuid == uuid);
        let gpu = gpu.ok_or_else(|| format!("there is no GPU {uuid}"))?;
        Ok(Reading {
            free_mib: gpu.free_mib,
            total_mib: gpu.total_mib,
            gpu_status: GpuStatus::default(),
        })
    }

    fn machine(&self) -> Result<Machine, String> {
        let bytes = std::fs::read(&self.path).map_err(|error| one_line(&error))?;
        serde_json::from_slice(&bytes).map_err(|error| one_line(&error))
    }
}
