//! A device whose memory is limited in one stage.

use std::cell::Cell;
use std::rc::Rc;

use latentfarm_common::wire::memory::{MemorySample, MemoryStage};
use latentfarm_engine::memory::device::{EngineMemory, HostMemory, Shortage, StageWork};
use latentsync::Checkpoint;
use latentsync::Op;

/// Host memory with a budget that applies in one stage alone, and can be lifted.
pub struct StageBudget {
    /// The memory of all other stages.
    pub unbounded: HostMemory,
    /// The memory of `stage`, while `armed`.
    pub budgeted: HostMemory,
    pub stage: MemoryStage,
    /// The stage that the engine is in.
    pub current: MemoryStage,
    pub armed: Rc<Cell<bool>>,
}

impl StageBudget {
    fn memory(&mut self) -> &mut HostMemory {
        let limited = self.armed.get() && self.current == self.stage;
        if limited {
            &mut self.budgeted
        } else {
            &mut self.unbounded
        }
    }
}

impl EngineMemory for StageBudget {
    fn survives_panic(&self) -> bool {
        true
    }
    fn reading(&self) -> MemorySample {
        self.unbounded.reading()
    }
    fn take_peak(&mut self) -> u64 {
        self.unbounded.take_peak()
    }
    fn load(&mut self, checkpoint: &Checkpoint, work: StageWork) -> Result<(), Shortage> {
        self.current = work.stage;
        self.memory().load(checkpoint, work)
    }
    fn loaded(&mut self, checkpoint: &Checkpoint) {
        self.unbounded.loaded(checkpoint);
    }
    fn unloaded(&mut self) {
        self.unbounded.unloaded();
    }
    fn begin(&mut self, work: StageWork) -> Result<(), Shortage> {
        self.current = work.stage;
        self.unbounded.begin(work)
    }
    fn before(&mut self, op: Op, value_bytes: usize) -> Result<(), Shortage> {
        self.memory().before(op, value_bytes)
    }
    fn needed_at_least(&self) -> u64 {
        self.unbounded.needed_at_least()
    }
    fn trim(&mut self, keep: u64) {
        self.unbounded.trim(keep);
    }
    fn leak(&mut self, bytes: u64) {
        self.unbounded.leak(bytes);
    }
}
