//! Watches over an engine's memory: measures, refuses what does not fit, cleans up, and makes faults on demand.

use std::cell::RefCell;
use std::rc::Rc;

use candle_core::{Error, Result, Tensor};
use latentfarm_common::error::one_line;
use latentfarm_common::wire::memory::{MemorySample, MemoryStage};

use super::classify::{Fault, classify};
use crate::memory::device::{EngineMemory, Shortage, Work};
use crate::memory::fault::{FaultKind, Faults, Request};
use crate::memory::guard::{Cleaner, Cleanup, Keep, Level};
use latentsync::Checkpoint;
use latentsync::{Hooks, Op};

/// Shared by the guards, the networks' layers and the engine, all on one thread.
pub(super) type Shared = Rc<RefCell<Watch>>;

pub(super) struct Watch {
    memory: Box<dyn EngineMemory>,
    cleanup: Cleanup,
    faults: Faults,
    work: Work,
    /// Bytes that this engine could use in all when the request began.
    free_before: u64,
    /// Highest use since the last sample.
    peak: u64,
    /// Highest use in a denoising step of this task.
    step_peak: u64,
    /// What was refused in this request.
    shortage: Option<Shortage>,
    /// Whether a step of this request was tried twice.
    retried: bool,
}

impl Watch {
    pub(super) fn new(memory: Box<dyn EngineMemory>, cleanup: Cleanup, faults: Faults) -> Self {
        if !faults.is_empty() {
            tracing::warn!("faults on demand: this engine fails on purpose");
        }
        Self {
            memory,
            cleanup,
            faults,
            work: Work {
                stage: MemoryStage::Idle,
                plan: latentfarm_common::wire::memory::MemoryPlan::default(),
                guided: false,
            },
            free_before: 0,
            peak: 0,
            step_peak: 0,
            shortage: None,
            retried: false,
        }
    }

    pub(super) fn survives_panic(&self) -> bool {
        self.memory.survives_panic()
    }

    pub(super) fn request(&mut self, request: Request, work: Work) {
        self.faults.begin(request);
        self.work = work;
        let reading = self.memory.reading();
        self.free_before = reading.free + reading.own;
        self.shortage = None;
        self.retried = false;
    }

    pub(super) fn stage(&self) -> MemoryStage {
        self.work.stage
    }

    /// A stage, a frame or a step begins.
    pub(super) fn begin(&mut self, stage: MemoryStage) -> std::result::Result<(), Shortage> {
        self.work.stage = stage;
        let begun = self.memory.begin(self.work);
        begun.map_err(|shortage| self.refuse(shortage))
    }

    /// Weights are about to be loaded.
    pub(super) fn load(&mut self, checkpoint: &Checkpoint) -> std::result::Result<(), Shortage> {
        let fits = self.memory.load(checkpoint, self.work);
        fits.map_err(|shortage| self.refuse(shortage))
    }

    pub(super) fn loaded(&mut self, checkpoint: &Checkpoint) {
        self.memory.loaded(checkpoint);
    }

    pub(super) fn unloaded(&mut self) {
        self.memory.unloaded();
    }

    /// A place without operations at which a fault may come.
    pub(super) fn fault(&mut self) -> Result<()> {
        match self.faults.at(self.work.stage) {
            Some(kind) => self.strike(kind, 1),
            None => Ok(()),
        }
    }

    pub(super) fn sample(&mut self) -> MemorySample {
        let mut sample = self.memory.reading();
        let peak = self.memory.take_peak().max(self.peak);
        self.peak = 0;
        sample.live_peak = peak.max(sample.live);
        sample.reserved_peak = self.memory.take_reserved_peak().max(sample.reserved);
        sample
    }

    /// The request ended in an error: whether memory ran out, and if so what is known of it. Leaves the device fit
    /// for the next request.
    pub(super) fn ran_out(&mut self, fault: Fault) -> Option<Ending> {
        let shortage = self.shortage.take();
        let needed = match (shortage, fault) {
            (Some(shortage), _) => shortage.needed,
            (None, Fault::OutOfMemory) => self.memory.refused(),
            (None, Fault::Poisoned | Fault::Other) => return None,
        };
        if shortage.is_none() {
            self.memory.recover();
        }
        Some(Ending {
            stage: self.work.stage,
            needed,
            free_before: self.free_before,
        })
    }

    fn refuse(&mut self, shortage: Shortage) -> Shortage {
        self.shortage = Some(shortage);
        shortage
    }

    fn strike(&mut self, kind: FaultKind, output: u64) -> Result<()> {
        let stage = self.work.stage;
        tracing::warn!(?kind, %stage, "fault on demand");
        match kind {
            FaultKind::OutOfMemory => {
                let reading = self.memory.reading();
                let shortage = self.refuse(Shortage {
                    needed: self.memory.refused() + output,
                    limit: reading.own + reading.free,
                });
                Err(Error::wrap(shortage))
            }
            FaultKind::Error => Err(Error::Msg(format!("an error on demand, at {stage}"))),
            FaultKind::Panic => panic!("a panic on demand, at {stage}"),
            FaultKind::Abort => std::process::abort(),
            FaultKind::Kill => {
                let killed = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
                Err(Error::Msg(format!("this process cannot be killed: {killed:?}")))
            }
            FaultKind::Hang => loop {
                std::thread::park();
            },
        }
    }
}

/// How a request ran out of memory.
pub(super) struct Ending {
    pub(super) stage: MemoryStage,
    pub(super) needed: u64,
    pub(super) free_before: u64,
}

impl Hooks for Watch {
    fn before(&mut self, op: Op, x: &Tensor) -> Result<()> {
        let value_bytes = x.dtype().size_in_bytes();
        if let Some(kind) = self.faults.at_operation(self.work.stage) {
            self.strike(kind, (op.output_elements() * value_bytes) as u64)?;
        }
        let fits = self.memory.before(op, value_bytes);
        fits.map_err(|shortage| Error::wrap(self.refuse(shortage)))
    }

    /// Once a request: memory that others took and gave back, or that lay in pieces, may be there now.
    fn retry(&mut self, error: &Error) -> bool {
        let ran_out = self.shortage.is_none() && classify(&one_line(error)) == Fault::OutOfMemory;
        if !ran_out || std::mem::replace(&mut self.retried, true) {
            return false;
        }
        let again = self.memory.recover();
        if again {
            tracing::warn!(stage = %self.work.stage, "out of memory: unused memory is given back and the step done again");
        }
        again
    }
}

impl Cleaner for Watch {
    fn clean(&mut self, level: Level) {
        self.peak = self.peak.max(self.memory.take_peak());
        if self.work.stage == MemoryStage::Denoise {
            self.step_peak = self.step_peak.max(self.peak);
        }
        match self.cleanup.at(level) {
            Keep::Everything => {}
            // Before the first step there is no peak to trim to; what lies there is soon used.
            Keep::StepPeak if self.step_peak == 0 => {}
            Keep::StepPeak => self.memory.trim(self.step_peak),
            Keep::Nothing => self.memory.trim(0),
        }
        match level {
            Level::Step => {}
            Level::Window => {
                let leak = self.faults.leak();
                if leak > 0 {
                    self.memory.leak(leak);
                }
                self.work.stage = MemoryStage::Idle;
                // Idle asks for nothing, so nothing is refused.
                let _fits = self.memory.begin(self.work);
            }
            Level::Task => self.step_peak = 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};
    use latentfarm_common::wire::memory::MemoryPlan;
    use latentsync::Run;

    /// A device whose allocator may be tried again.
    #[derive(Default)]
    struct Pool {
        trims: Rc<RefCell<Vec<u64>>>,
        peak: u64,
    }

    impl EngineMemory for Pool {
        fn survives_panic(&self) -> bool {
            false
        }
        fn reading(&self) -> MemorySample {
            MemorySample {
                free: 1000,
                live: 7,
                ..MemorySample::default()
            }
        }
        fn take_peak(&mut self) -> u64 {
            std::mem::take(&mut self.peak)
        }
        fn load(&mut self, _: &Checkpoint, _: Work) -> std::result::Result<(), Shortage> {
            Ok(())
        }
        fn loaded(&mut self, _: &Checkpoint) {}
        fn unloaded(&mut self) {}
        fn begin(&mut self, work: Work) -> std::result::Result<(), Shortage> {
            self.peak = if work.stage == MemoryStage::Denoise {
                500
            } else {
                900
            };
            Ok(())
        }
        fn before(&mut self, _: Op, _: usize) -> std::result::Result<(), Shortage> {
            Err(Shortage {
                needed: 2000,
                limit: 1000,
            })
        }
        fn refused(&self) -> u64 {
            1234
        }
        fn recover(&mut self) -> bool {
            self.trim(0);
            true
        }
        fn trim(&mut self, keep: u64) {
            self.trims.borrow_mut().push(keep);
        }
        fn leak(&mut self, _: u64) {}
    }

    fn window() -> Work {
        Work {
            stage: MemoryStage::VaeEncode,
            plan: MemoryPlan::default(),
            guided: false,
        }
    }

    fn watch(cleanup: Cleanup) -> (Watch, Rc<RefCell<Vec<u64>>>) {
        let pool = Pool::default();
        let trims = Rc::clone(&pool.trims);
        let mut watch = Watch::new(Box::new(pool), cleanup, Faults::default());
        watch.request(Request::Window, window());
        (watch, trims)
    }

    #[test]
    fn what_the_driver_refuses_is_tried_once_more_and_what_the_watch_refuses_is_not() {
        let (mut watch, trims) = watch(Cleanup::Step);
        let refusal = Error::wrap("DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")");
        assert!(!watch.retry(&Error::Msg("a shape does not fit".to_owned())));
        assert!(watch.retry(&refusal));
        assert!(!watch.retry(&refusal), "a second time in the same request");
        assert_eq!(*trims.borrow(), [0]);
        let ending = watch.ran_out(Fault::OutOfMemory).unwrap();
        assert_eq!((ending.needed, ending.free_before), (1234, 1000));
        watch.request(Request::Window, window());
        let x = Tensor::zeros(1, DType::F32, &Device::Cpu).unwrap();
        let own = watch.before(Op::Copy { elements: 1 }, &x).unwrap_err();
        assert!(!watch.retry(&own));
        assert_eq!(watch.ran_out(Fault::Other).unwrap().needed, 2000);
        assert!(watch.ran_out(Fault::Poisoned).is_none(), "the shortage was told");
    }

    #[test]
    fn a_step_is_run_again_through_the_context() {
        let (watch, trims) = watch(Cleanup::Step);
        let watch = RefCell::new(watch);
        let run = Run::default().with_hooks(&watch);
        let runs = std::cell::Cell::new(0);
        let outcome = run.retried(|| {
            runs.set(runs.get() + 1);
            if runs.get() == 1 {
                return Err(Error::wrap("CUDA_ERROR_OUT_OF_MEMORY"));
            }
            Ok(runs.get())
        });
        assert_eq!(outcome.unwrap(), 2);
        assert_eq!(*trims.borrow(), [0]);
    }

    #[test]
    fn a_step_is_trimmed_to_the_steps_peak_and_its_peak_is_told() {
        for (cleanup, expected) in [
            (Cleanup::Strict, &[0, 0, 0][..]),
            (Cleanup::Step, &[500, 0]),
            (Cleanup::Window, &[0]),
            (Cleanup::Task, &[]),
        ] {
            let (mut watch, trims) = watch(cleanup);
            watch.begin(MemoryStage::VaeEncode).unwrap();
            watch.clean(Level::Step);
            assert_eq!(watch.sample().live_peak, 900);
            watch.begin(MemoryStage::Denoise).unwrap();
            watch.clean(Level::Step);
            assert_eq!(watch.sample().live_peak, 500);
            assert_eq!(watch.sample().live_peak, 7, "told once");
            watch.clean(Level::Window);
            assert_eq!(*trims.borrow(), expected, "{cleanup:?}");
            assert_eq!(watch.stage(), MemoryStage::Idle);
        }
    }
}
