//! Monitors an engine's memory: measures it, refuses what does not fit, cleans up after frames, windows and
//! tasks, and injects faults in tests. The networks call the monitor before each operation, through
//! [`Hooks`].

use std::cell::RefCell;
use std::rc::Rc;

use candle_core::{Error, Result, Tensor};
use latentfarm_common::error::one_line;
use latentfarm_common::wire::memory::{MemoryPlan, MemorySample, MemoryStage};

use crate::classify::{ErrorClass, classify};
use crate::memory::cleanup::{Cleaner, CleanupPolicy, CleanupScope, Retention};
use crate::memory::device::{DeviceCondition, EngineMemory, Shortage, StageWork};
use crate::memory::fault_injection::{FaultInjector, FaultKind, RequestKind};
use latentsync::Checkpoint;
use latentsync::{Hooks, Op};

/// The monitor as the cleanup guards, the networks' hooks and the engine share it, all on one thread.
pub(super) type SharedMonitor = Rc<RefCell<MemoryMonitor>>;

/// The memory of one engine, from request to request.
pub(super) struct MemoryMonitor {
    /// The memory of the device.
    pub(super) memory: Box<dyn EngineMemory>,
    cleanup: CleanupPolicy,
    faults: FaultInjector,
    /// What the current request is doing.
    work: StageWork,
    /// Bytes that this engine could use in all when the request began, those that it held included.
    free_before: u64,
    /// Highest use in bytes since the last sample.
    peak: u64,
    /// Highest use in bytes during a denoising step of this task.
    step_peak: u64,
    /// What was refused during this request.
    shortage: Option<Shortage>,
    /// Whether a step of this request was repeated already.
    retried: bool,
}

impl MemoryMonitor {
    pub(super) fn new(memory: Box<dyn EngineMemory>, cleanup: CleanupPolicy, faults: FaultInjector) -> Self {
        if !faults.is_empty() {
            tracing::warn!("fault injection is on: this engine fails on purpose");
        }
        Self {
            memory,
            cleanup,
            faults,
            work: StageWork {
                stage: MemoryStage::Idle,
                plan: MemoryPlan::default(),
                guided: false,
            },
            free_before: 0,
            peak: 0,
            step_peak: 0,
            shortage: None,
            retried: false,
        }
    }

    /// Begins a request: forgets the shortage of the last one and reads the free memory.
    pub(super) fn begin_request(&mut self, request: RequestKind, work: StageWork) {
        self.faults.begin(request);
        self.work = work;
        let reading = self.memory.reading();
        self.free_before = reading.free + reading.own;
        self.shortage = None;
        self.retried = false;
    }

    /// Returns the stage of the current request, which is `Idle` between requests.
    pub(super) fn stage(&self) -> MemoryStage {
        self.work.stage
    }

    /// Begins a stage, a frame or a step.
    ///
    /// # Errors
    /// Fails if it is known not to fit.
    pub(super) fn begin_stage(&mut self, stage: MemoryStage) -> std::result::Result<(), Shortage> {
        self.work.stage = stage;
        let begun = self.memory.begin(self.work);
        begun.map_err(|shortage| self.record(shortage))
    }

    /// Begins to load the weights of `checkpoint`.
    ///
    /// # Errors
    /// Fails if they do not fit.
    pub(super) fn begin_load(&mut self, checkpoint: &Checkpoint) -> std::result::Result<(), Shortage> {
        let fits = self.memory.load(checkpoint, self.work);
        fits.map_err(|shortage| self.record(shortage))
    }

    /// Injects the fault of the current stage, if there is one, at a point between operations.
    ///
    /// # Errors
    /// The injected error.
    pub(super) fn inject_between_operations(&mut self) -> Result<()> {
        match self.faults.at(self.work.stage) {
            Some(kind) => self.inject(kind, 1),
            None => Ok(()),
        }
    }

    /// Reads the memory, with the peaks since the last sample.
    pub(super) fn sample(&mut self) -> MemorySample {
        let mut sample = self.memory.reading();
        let peak = self.memory.take_peak().max(self.peak);
        self.peak = 0;
        sample.live_peak = peak.max(sample.live);
        sample.reserved_peak = self.memory.take_reserved_peak().max(sample.reserved);
        sample
    }

    /// Classifies the text of an error. If the text does not say what went wrong, the device is examined.
    pub(super) fn classify(&mut self, text: &str) -> ErrorClass {
        let class = classify(text);
        if class != ErrorClass::Unclear {
            return class;
        }
        let condition = self.memory.examine();
        tracing::warn!(?condition, stage = %self.work.stage, "the device was examined after an unclear error: {text}");
        match condition {
            DeviceCondition::Works => ErrorClass::Other,
            DeviceCondition::NearlyFull => ErrorClass::OutOfMemory,
            DeviceCondition::Broken => ErrorClass::Poisoned,
        }
    }

    /// Called when a request ends with an error of `class`: returns what is known if memory ran out, and
    /// leaves the device ready for the next request.
    pub(super) fn out_of_memory_details(&mut self, class: ErrorClass) -> Option<OutOfMemoryDetails> {
        let shortage = self.shortage.take();
        let needed = match (shortage, class) {
            (Some(shortage), _) => shortage.needed,
            (None, ErrorClass::OutOfMemory) => self.memory.needed_at_least(),
            (None, _) => return None,
        };
        if shortage.is_none() {
            self.memory.recover();
        }
        // The peaks are those of a request that failed. The next sample may be of another plan.
        self.forget_peaks();
        Some(OutOfMemoryDetails {
            stage: self.work.stage,
            needed,
            free_before: self.free_before,
        })
    }

    /// Returns unused memory and begins to measure anew, because the requests that follow run under `plan`.
    pub(super) fn change_plan(&mut self, plan: MemoryPlan) {
        self.work.plan = plan;
        self.work.stage = MemoryStage::Idle;
        self.memory.trim(0);
        // The idle stage needs nothing, so that it is never refused.
        let _fits = self.memory.begin(self.work);
        self.forget_peaks();
    }

    fn forget_peaks(&mut self) {
        self.memory.take_peak();
        self.memory.take_reserved_peak();
        self.peak = 0;
    }

    /// Keeps `shortage` until the request's failure is reported.
    fn record(&mut self, shortage: Shortage) -> Shortage {
        self.shortage = Some(shortage);
        shortage
    }

    /// Makes a fault happen. An injected shortage is one of `output_bytes` more than what is in use.
    fn inject(&mut self, kind: FaultKind, output_bytes: u64) -> Result<()> {
        let stage = self.work.stage;
        tracing::warn!(?kind, %stage, "injecting a fault");
        match kind {
            FaultKind::OutOfMemory => {
                let reading = self.memory.reading();
                let shortage = self.record(Shortage {
                    needed: self.memory.needed_at_least() + output_bytes,
                    limit: reading.own + reading.free,
                });
                Err(Error::wrap(shortage))
            }
            FaultKind::Error => Err(Error::Msg(format!("an injected error, at {stage}"))),
            FaultKind::Panic => panic!("an injected panic, at {stage}"),
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

/// What is known of a request that ran out of memory; amounts are in bytes.
pub(super) struct OutOfMemoryDetails {
    pub(super) stage: MemoryStage,
    pub(super) needed: u64,
    pub(super) free_before: u64,
}

impl Hooks for MemoryMonitor {
    fn before(&mut self, op: Op, x: &Tensor) -> Result<()> {
        let value_bytes = x.dtype().size_in_bytes();
        if let Some(kind) = self.faults.at_operation(self.work.stage) {
            self.inject(kind, (op.output_elements() * value_bytes) as u64)?;
        }
        let fits = self.memory.before(op, value_bytes);
        fits.map_err(|shortage| Error::wrap(self.record(shortage)))
    }

    /// Allows one repetition in a request: after unused memory is returned, memory that other processes have
    /// freed or that was fragmented may be available.
    fn retry(&mut self, error: &Error) -> bool {
        let is_refused =
            self.shortage.is_none() && self.classify(&one_line(error)) == ErrorClass::OutOfMemory;
        if !is_refused || std::mem::replace(&mut self.retried, true) {
            return false;
        }
        let again = self.memory.recover();
        if again {
            tracing::warn!(stage = %self.work.stage, "out of memory: unused memory is returned to the device and the step is repeated");
        }
        again
    }
}

impl Cleaner for MemoryMonitor {
    fn clean(&mut self, scope: CleanupScope) {
        self.peak = self.peak.max(self.memory.take_peak());
        if self.work.stage == MemoryStage::Denoise {
            self.step_peak = self.step_peak.max(self.peak);
        }
        match self.cleanup.at(scope) {
            Retention::Everything => {}
            // Before the first step there is no peak to trim to, and the free memory is soon used.
            Retention::StepPeak if self.step_peak == 0 => {}
            Retention::StepPeak => self.memory.trim(self.step_peak),
            Retention::Nothing => self.memory.trim(0),
        }
        match scope {
            CleanupScope::Step => {}
            CleanupScope::Window => {
                let leak = self.faults.leak();
                if leak > 0 {
                    self.memory.leak(leak);
                }
                self.work.stage = MemoryStage::Idle;
                // The idle stage needs nothing, so that it is never refused.
                let _fits = self.memory.begin(self.work);
            }
            CleanupScope::Task => self.step_peak = 0,
        }
    }
}

#[cfg(test)]
mod tests;
