//! What an engine requires of the memory of its device. The memory monitor calls it; each kind of device
//! implements it.

use latentfarm_common::wire::memory::{MemoryPlan, MemorySample, MemoryStage};

use latentsync::Checkpoint;
use latentsync::Op;

pub(super) const MIB: u64 = 1 << 20;

/// More memory is needed than there is. A device reports it before it allocates anything; an allocator that
/// refuses is reported by the memory monitor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("out of memory: at least {} MiB are needed, {} MiB may be used", needed.div_ceil(MIB), limit / MIB)]
pub struct Shortage {
    /// Lower bound in bytes on what the work needs of the device, what the engine already holds included.
    pub needed: u64,
    /// Bytes that this engine may use.
    pub limit: u64,
}

/// A stage of a request, with what decides how much memory it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StageWork {
    /// The stage that runs or is about to.
    pub stage: MemoryStage,
    /// The plan that the request runs under.
    pub plan: MemoryPlan,
    /// Whether classifier-free guidance is on.
    pub guided: bool,
}

/// What a device is and runs with, as `latentfarm-engine check open` prints it. What does not concern a device is
/// missing.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct DeviceFacts {
    /// The GPU's name.
    pub gpu: Option<String>,
    /// Its compute capability, such as `8.9`.
    pub compute_capability: Option<String>,
    /// The oldest compute capability that the engine was built for.
    pub built_for: Option<String>,
    /// The highest version of CUDA that the driver supports.
    pub driver_cuda: Option<String>,
    /// The version of CUDA that the engine was built with.
    pub toolkit: Option<String>,
    /// The version of the cuBLAS library that was loaded.
    pub cublas: Option<String>,
    /// Memory in MiB that all programs used on the device when the context was made, before any module was loaded.
    pub used_at_open_mib: Option<u64>,
    /// The same when all modules were loaded and the kernels had run, without what the driver's pool holds.
    pub used_with_modules_mib: Option<u64>,
    /// Whether the kernels of this build are used, or candle's operations because one of them computed wrong results.
    pub own_kernels: Option<bool>,
}

/// What a device shows after an error whose text does not say what went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceCondition {
    /// The device computes, and has memory left.
    Works,
    /// The device computes, and is nearly full.
    NearlyFull,
    /// The device refuses even the smallest work.
    Broken,
}

/// Reads the free bytes of a device, on any thread; `None` if the driver does not tell.
pub type FreeMemoryReader = Box<dyn FnMut() -> Option<u64> + Send>;

/// The memory of the device that an engine computes on. All amounts are in bytes.
///
/// The methods that announce work do nothing by default, for a device whose driver refuses what does not fit.
pub trait EngineMemory {
    /// Returns whether the device can still be used after a panic in the middle of its work.
    fn survives_panic(&self) -> bool;

    /// Describes the device.
    fn facts(&self) -> DeviceFacts {
        DeviceFacts::default()
    }

    /// Reads the memory, without the peaks.
    fn reading(&self) -> MemorySample;

    /// Returns the highest number of bytes in use since the last call.
    fn take_peak(&mut self) -> u64;

    /// Returns the highest number of bytes that the allocator held, in use or not, since the last call. An
    /// allocator that keeps no such record returns what it holds now.
    fn take_reserved_peak(&mut self) -> u64 {
        self.reading().reserved
    }

    /// Returns what reads the free memory of the device while the engine computes on it; `None` if the device cannot
    /// be read from another thread.
    fn free_memory_reader(&self) -> Option<FreeMemoryReader> {
        None
    }

    /// Announces that the weights of `checkpoint` are about to be loaded, while no others are.
    ///
    /// # Errors
    /// Fails if they do not fit.
    fn load(&mut self, _checkpoint: &Checkpoint, _work: StageWork) -> Result<(), Shortage> {
        Ok(())
    }

    /// Announces that the weights of `checkpoint` were loaded.
    fn loaded(&mut self, _checkpoint: &Checkpoint) {}

    /// Announces that the weights could not be loaded, or were dropped.
    fn unloaded(&mut self) {}

    /// Announces that a stage, a frame or a step begins.
    ///
    /// # Errors
    /// Fails if it is known not to fit.
    fn begin(&mut self, _work: StageWork) -> Result<(), Shortage> {
        Ok(())
    }

    /// Announces that an operation on values of `value_bytes` bytes each is about to run.
    ///
    /// # Errors
    /// Fails if what it takes would not fit.
    fn before(&mut self, _op: Op, _value_bytes: usize) -> Result<(), Shortage> {
        Ok(())
    }

    /// Returns a lower bound on the bytes that the work needs for which the allocator has just refused
    /// memory.
    fn needed_at_least(&self) -> u64;

    /// Finds out what may have caused an error whose text does not say it. Called before anything is freed to recover.
    fn examine(&mut self) -> DeviceCondition {
        DeviceCondition::Works
    }

    /// Clears the error after the allocator refused and returns unused memory to the system. Returns whether
    /// the same work may fit now.
    fn recover(&mut self) -> bool {
        false
    }

    /// Waits for running work, then returns unused memory to the system until at most `keep` bytes are held.
    fn trim(&mut self, keep: u64);

    /// Allocates bytes that no cleanup frees, for injected leaks.
    fn leak(&mut self, bytes: u64);
}
