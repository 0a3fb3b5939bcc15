//! Tries a GPU before a worker takes it: starts an engine that opens it, runs every kernel and a product in each number
//! type, and ends. `run` and `probe` do so for each GPU that they are about to use.

mod attempt;
mod explain;
mod passes;

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::probe::Gpu;
use attempt::{Outcome, attempt};
use passes::{Pass, Passes};

/// How long a driver may take to open a GPU and to compile the kernels for it, which it does at the first start.
pub const CHECK_LIMIT: Duration = Duration::from_mins(5);

/// Checks GPUs with the engines of this machine.
#[derive(Clone, Debug)]
pub struct DeviceChecker {
    /// The engine programs for GPUs, in the order in which they are tried.
    pub engines: Vec<PathBuf>,
    /// The version of the GPU driver.
    pub driver: Option<String>,
    /// The file that keeps which checks were passed; `None` to keep none.
    pub passes: Option<PathBuf>,
    /// A check that takes longer has failed.
    pub limit: Duration,
}

impl DeviceChecker {
    /// Returns the first engine that can compute on the GPU, or in one line why none can and what to do about it. A check
    /// that was passed is not repeated while engine, GPU and driver are the same; one that was failed always is.
    pub fn engine_for(&self, gpu: &Gpu) -> Result<PathBuf, String> {
        let mut first_reason = None;
        for engine in &self.engines {
            match self.check(engine, gpu) {
                Ok(()) => return Ok(engine.clone()),
                Err(reason) => {
                    tracing::debug!(engine = %engine.display(), gpu = %gpu.name, reason, "an engine cannot be used");
                    first_reason.get_or_insert(reason);
                }
            }
        }
        Err(first_reason.unwrap_or_else(|| "no CUDA engine is installed".to_owned()))
    }

    fn check(&self, engine: &Path, gpu: &Gpu) -> Result<(), String> {
        let pass = Pass::new(engine, gpu, self.driver.as_deref());
        let passes = self.passes.as_deref().map(Passes::at);
        if let (Some(passes), Some(pass)) = (&passes, &pass)
            && passes.contains(pass)
        {
            return Ok(());
        }
        tracing::info!(gpu = %gpu.name, "checking the GPU; the first time the driver compiles the kernels for it, which may take a minute");
        match attempt(engine, gpu, self.limit) {
            Outcome::Passed => {
                if let (Some(passes), Some(pass)) = (passes, pass) {
                    passes.add(pass);
                }
                Ok(())
            }
            // The GPU is not at fault that other programs have filled it. The worker waits for memory.
            outcome if outcome.is_out_of_memory() => Ok(()),
            outcome => Err(explain::explain(&outcome, self.driver.as_deref())),
        }
    }
}

#[cfg(test)]
mod tests;
