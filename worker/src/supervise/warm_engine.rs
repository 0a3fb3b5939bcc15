//! The engine process that a runner keeps warm, and the task that is admitted to it. The runner in `mod.rs` owns both.

use std::sync::{Mutex, PoisonError};

use latentfarm_common::host;
use latentfarm_common::wire::memory::MemoryUse;

use super::child::Child;
use super::leak::Growth;
use super::loss::Admission;
use super::meter::Meter;

/// An engine process that stays running between tasks.
#[derive(Debug)]
pub(super) struct Engine {
    pub(super) child: Child,
    pub(super) growth: Growth,
    /// MiB of host memory that the engine limits itself to; `None` on a GPU.
    pub(super) budget_mib: Option<u64>,
}

/// A task that was admitted under a memory plan, with the memory that it uses.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) admission: Admission,
    pub(super) need_mib: u64,
    pub(super) meter: Mutex<Meter>,
    /// The process whose peak resident set the kernel has counted since the task began.
    pub(super) counted: Option<u32>,
}

impl Run {
    pub(super) fn meter<T>(&self, change: impl FnOnce(&mut Meter) -> T) -> T {
        change(&mut self.meter.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Ends the measurement and returns the memory that the task used.
    pub(super) fn finish(self) -> MemoryUse {
        let peak_mib = self.counted.map(host::peak_rss_mib);
        let meter = self.meter.into_inner().unwrap_or_else(PoisonError::into_inner);
        meter.finish(peak_mib)
    }
}
