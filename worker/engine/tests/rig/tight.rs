//! A device that is tight in one stage.

use std::cell::Cell;
use std::rc::Rc;

use latentfarm_common::wire::memory::{MemorySample, MemoryStage};
use latentfarm_engine::memory::device::{EngineMemory, HostMemory, Shortage, Work};
use latentsync::Checkpoint;
use latentsync::Op;

/// Host memory with a budget that holds in one stage alone, and can be lifted.
pub struct TightStage {
    pub free: HostMemory,
    pub tight: HostMemory,
    pub stage: MemoryStage,
    pub now: MemoryStage,
    pub armed: Rc<Cell<bool>>,
}

impl TightStage {
    fn memory(&mut self) -> &mut HostMemory {
        let tight = self.armed.get() && self.now == self.stage;
        if tight { &mut self.tight } else { &mut self.free }
    }
}

impl EngineMemory for TightStage {
    fn survives_panic(&self) -> bool {
        true
    }
    fn reading(&self) -> MemorySample {
        self.free.reading()
    }
    fn take_peak(&mut self) -> u64 {
        self.free.take_peak()
    }
    fn load(&mut self, checkpoint: &Checkpoint, work: Work) -> Result<(), Shortage> {
        self.now = work.stage;
        self.memory().load(checkpoint, work)
    }
    fn loaded(&mut self, checkpoint: &Checkpoint) {
        self.free.loaded(checkpoint);
    }
    fn unloaded(&mut self) {
        self.free.unloaded();
    }
    fn begin(&mut self, work: Work) -> Result<(), Shortage> {
        self.now = work.stage;
        self.free.begin(work)
    }
    fn before(&mut self, op: Op, value_bytes: usize) -> Result<(), Shortage> {
        self.memory().before(op, value_bytes)
    }
    fn refused(&self) -> u64 {
        self.free.refused()
    }
    fn recover(&mut self) -> bool {
        false
    }
    fn trim(&mut self, keep: u64) {
        self.free.trim(keep);
    }
    fn leak(&mut self, bytes: u64) {
        self.free.leak(bytes);
    }
}
