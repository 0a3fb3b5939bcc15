//! The machine that a measurement was made on.

use procfs::{CpuInfo, Current as _};
use serde::{Deserialize, Serialize};

/// What the speed of a machine depends on, as the report of a bench shows it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BenchMachine {
    /// Model of the CPU, or its architecture if the kernel names no model.
    pub cpu: String,
    /// Cores that this process may use.
    pub cores: usize,
    /// Load average of the last minute before the measurement: what else the machine was doing.
    pub load_average: f64,
}

impl BenchMachine {
    /// Describes this machine as it is now.
    pub fn here() -> Self {
        let cpus = CpuInfo::current().ok();
        let model = cpus.as_ref().and_then(|cpus| cpus.model_name(0));
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        Self {
            cpu: model.unwrap_or(std::env::consts::ARCH).to_owned(),
            cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            load_average: load
                .split_whitespace()
                .next()
                .and_then(|number| number.parse().ok())
                .unwrap_or_default(),
        }
    }
}
