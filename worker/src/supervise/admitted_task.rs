//! A task that was admitted to the engine: the memory plan that it runs under and the memory that it uses. The warm engine
//! makes one for each task; the engine client and the session with the media child share it.

use std::sync::{Mutex, OnceLock, PoisonError};

use latentfarm_common::host;
use latentfarm_common::wire::memory::{MemoryConstraints, MemoryPlan, MemoryUse, OutOfMemory};

use super::failure_class::Admission;
use super::memory_recorder::MemoryRecorder;

/// A task that was admitted under a memory plan, with the memory that it uses.
#[derive(Debug)]
pub(super) struct AdmittedTask {
    /// The plans that the task may use, and what they need.
    pub(super) constraints: MemoryConstraints,
    /// The plan changes if the engine runs out of memory and the task goes on under a leaner one.
    admission: Mutex<Admission>,
    recorder: Mutex<MemoryRecorder>,
    /// The process whose peak resident set the kernel counts anew since the task began; `None` if it does
    /// not.
    peak_rss_pid: Option<u32>,
    /// The peak resident set of the engine during the task, once it has done its part.
    kernel_peak_mib: OnceLock<u64>,
}

impl AdmittedTask {
    pub(super) fn new(constraints: MemoryConstraints, admission: Admission) -> Self {
        let Admission {
            kind, device, plan, ..
        } = admission.clone();
        let need_mib = constraints.needs.of(plan);
        Self {
            constraints,
            admission: Mutex::new(admission),
            recorder: Mutex::new(MemoryRecorder::new(kind, device, plan, need_mib)),
            peak_rss_pid: None,
            kernel_peak_mib: OnceLock::new(),
        }
    }

    /// Has the kernel count the peak resident set of a process anew, if there is one and the kernel counts.
    pub(super) fn count_peak_rss_of(&mut self, pid: Option<u32>) {
        self.peak_rss_pid = pid.filter(|pid| host::reset_peak_rss(*pid));
    }

    /// Returns the device and the plan under which the task runs now.
    pub(super) fn admission(&self) -> Admission {
        let admission = self.admission.lock().unwrap_or_else(PoisonError::into_inner);
        admission.clone()
    }

    /// Returns the memory that the present plan needs, in MiB.
    pub(super) fn need_mib(&self) -> u64 {
        self.constraints.needs.of(self.admission().plan)
    }

    /// Has the task go on under `plan`, and begins the record of its memory anew.
    pub(super) fn change_plan(&self, shortage: &OutOfMemory, plan: MemoryPlan) {
        self.admission.lock().unwrap_or_else(PoisonError::into_inner).plan = plan;
        let need_mib = self.constraints.needs.of(plan);
        self.recorder(|recorder| recorder.change_plan(shortage.clone(), plan, need_mib));
        if let Some(pid) = self.peak_rss_pid {
            host::reset_peak_rss(pid);
        }
    }

    pub(super) fn recorder<T>(&self, change: impl FnOnce(&mut MemoryRecorder) -> T) -> T {
        change(&mut self.recorder.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Records the kernel's count before the engine goes on with another task.
    pub(super) fn record_kernel_peak(&self) {
        if let Some(pid) = self.peak_rss_pid {
            self.kernel_peak_mib.get_or_init(|| host::peak_rss_mib(pid));
        }
    }

    /// Ends the record and returns the memory that the task used.
    pub(super) fn finish(self) -> MemoryUse {
        let peak_mib = self.kernel_peak_mib.get().copied();
        let recorder = self.recorder.into_inner().unwrap_or_else(PoisonError::into_inner);
        recorder.finish(peak_mib)
    }
}
