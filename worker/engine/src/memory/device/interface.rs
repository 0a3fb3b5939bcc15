//! What an engine asks of the memory of its device.

use latentfarm_common::wire::memory::{MemoryPlan, MemorySample, MemoryStage};

use latentsync::Checkpoint;
use latentsync::Op;

pub(super) const MIB: u64 = 1 << 20;

/// More memory than there is was asked for. Told before anything was allocated, or by the allocator itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("out of memory: {} MiB are needed at least, {} MiB may be used", needed.div_ceil(MIB), limit / MIB)]
pub struct Shortage {
    /// Lower bound on the bytes that the work takes of the device, what the engine holds already included.
    pub needed: u64,
    /// Bytes that this engine may use.
    pub limit: u64,
}

/// What an engine is about to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work {
    pub stage: MemoryStage,
    pub plan: MemoryPlan,
    /// Whether classifier-free guidance is on.
    pub guided: bool,
}

/// The memory of the device that an engine computes on. Bytes throughout.
pub trait EngineMemory {
    /// Whether the device is sound after a panic in the middle of its work.
    fn survives_panic(&self) -> bool;

    /// A reading, but for the peak, which [`EngineMemory::take_peak`] tells once.
    fn reading(&self) -> MemorySample;

    /// Highest bytes in use since the last call.
    fn take_peak(&mut self) -> u64;

    /// Highest bytes that the allocator held, in use or not, since the last call. An allocator that keeps no such record
    /// gives what it holds now.
    fn take_reserved_peak(&mut self) -> u64 {
        self.reading().reserved
    }

    /// The weights of `checkpoint` are about to be loaded; there are none.
    ///
    /// # Errors
    /// Where they do not fit.
    fn load(&mut self, checkpoint: &Checkpoint, work: Work) -> Result<(), Shortage>;

    /// The weights of `checkpoint` were loaded.
    fn loaded(&mut self, checkpoint: &Checkpoint);

    /// The weights could not be loaded, or were dropped.
    fn unloaded(&mut self);

    /// A stage, a frame or a step begins.
    ///
    /// # Errors
    /// Where it is known not to fit.
    fn begin(&mut self, work: Work) -> Result<(), Shortage>;

    /// An operation on values of `value_bytes` each is about to run.
    ///
    /// # Errors
    /// Where what it takes would not fit.
    fn before(&mut self, op: Op, value_bytes: usize) -> Result<(), Shortage>;

    /// Lower bound on the bytes that the work takes which the allocator has just refused.
    fn refused(&self) -> u64;

    /// After the allocator refused: clears the error and gives back what is not in use. Whether the same work may
    /// fit now.
    fn recover(&mut self) -> bool;

    /// Waits for what runs, then gives what is not in use back to the system, but for `keep` bytes in all.
    fn trim(&mut self, keep: u64);

    /// Bytes that no cleanup gives back: for faults on demand.
    fn leak(&mut self, bytes: u64);
}
