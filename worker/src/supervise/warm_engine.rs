//! The engine process that a runner keeps running between tasks, and the admission of a task to it: its
//! memory plan, its budget, and the memory that it reserves against other workers of this host. The runner in
//! `mod.rs` owns it; a render task in `render.rs` borrows it.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use latentfarm_common::error::one_line;
use latentfarm_common::host;
use latentfarm_common::queues::Available;
use latentfarm_common::wire::memory::{DeviceKind, MemoryConstraints, MemorySample, MemoryUse, OutOfMemory};
use latentfarm_common::wire::outcome::Failure;
use latentfarm_common::wire::task::RenderTask;

use super::activity::RenderActivity;
use super::child::Child;
use super::device_monitor::DeviceMonitor;
use super::failure_class::Admission;
use super::hang_detector::HangDetector;
use super::leak_detector::{Leak, LeakDetector};
use super::memory_recorder::MemoryRecorder;
use super::oom_bounds::LocalOomBounds;
use super::settings::RunnerSettings;
use crate::consume::{Finish, HeartbeatState};
use crate::machine::admission;
use crate::machine::probe::Device;
use crate::machine::reservations::Reservations;

/// A running engine process, with what the runner keeps about it.
#[derive(Debug)]
pub(super) struct EngineProcess {
    pub(super) child: Child,
    /// Whether the engine has loaded weights since it started.
    pub(super) has_loaded: bool,
    leak_detector: LeakDetector,
    /// The leak that was detected, if any: the engine is replaced after the task.
    leak: Option<Leak>,
    /// The host memory, in MiB, that the engine limits itself to; `None` on a GPU.
    budget_mib: Option<u64>,
}

impl EngineProcess {
    /// Checks the memory sample that follows the cleanup after a window for a leak, and logs the first one.
    pub(super) fn check_for_leak(&mut self, baseline: &MemorySample) {
        if let (Some(leak), None) = (self.leak_detector.push(baseline), self.leak) {
            tracing::warn!(%leak, "the engine leaks memory and is restarted after this task");
            self.leak = Some(leak);
        }
    }
}

/// A task that was admitted under a memory plan, with the memory that it uses.
#[derive(Debug)]
pub(super) struct AdmittedTask {
    pub(super) admission: Admission,
    /// The memory that the plan needs, in MiB.
    pub(super) need_mib: u64,
    recorder: Mutex<MemoryRecorder>,
    /// The process whose peak resident set the kernel counts anew since the task began; `None` if it does
    /// not.
    peak_rss_pid: Option<u32>,
    /// The peak resident set of the engine during the task, once it has done its part.
    kernel_peak_mib: OnceLock<u64>,
}

impl AdmittedTask {
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

/// The device's engine, if one runs, and what decides whether a task may use it.
pub(super) struct WarmEngine {
    pub(super) settings: Arc<RunnerSettings>,
    pub(super) monitor: DeviceMonitor,
    pub(super) heartbeat_state: HeartbeatState,
    pub(super) reservations: Reservations,
    pub(super) hang_detector: HangDetector,
    /// The engine while no task uses it.
    pub(super) idle: Option<EngineProcess>,
    oom_bounds: LocalOomBounds,
    /// The number of engines that were replaced because they leaked memory.
    pub(super) restarts: u32,
    /// When the engine ended its last window.
    pub(super) last_used: Option<Instant>,
    /// The machine's memory before the last pull.
    last_snapshot: Option<admission::Snapshot>,
}

impl WarmEngine {
    /// No engine is started before the first task that needs one.
    pub(super) fn new(
        settings: Arc<RunnerSettings>,
        monitor: DeviceMonitor,
        heartbeat_state: HeartbeatState,
    ) -> Self {
        let worker = heartbeat_state.snapshot().worker;
        Self {
            reservations: Reservations::new(
                &settings.reservations_dir,
                &settings.device.key(),
                worker.as_str(),
            ),
            hang_detector: HangDetector::new(settings.silence_limit),
            settings,
            monitor,
            heartbeat_state,
            idle: None,
            oom_bounds: LocalOomBounds::default(),
            restarts: 0,
            last_used: None,
            last_snapshot: None,
        }
    }

    /// Returns the memory that a task could use at this moment, and updates the heartbeats. Called before
    /// each pull.
    pub(super) async fn available(&mut self) -> Available {
        // A task that was dropped before its end has left its reservation.
        self.reservations.release();
        let status = self.monitor.read(self.reservations.others_mib()).await;
        self.monitor.update_heartbeat(&status, &self.heartbeat_state);
        self.last_snapshot = Some(status.snapshot);
        admission::available(&status.snapshot, &self.settings.limits)
    }

    /// Describes why no render task fitted before the last pull.
    pub(super) fn shortage(&self) -> String {
        let describe = |snapshot| admission::describe_shortage(&snapshot, &self.settings.limits);
        self.last_snapshot.map(describe).unwrap_or_default()
    }

    /// Admits a task and returns it with an engine to render it; a failure if no plan fits or no engine
    /// starts.
    pub(super) async fn begin(
        &mut self,
        body: &RenderTask,
    ) -> Result<(EngineProcess, AdmittedTask), Failure> {
        let constraints = self.oom_bounds.apply(&body.model, &body.memory);
        let mut admitted = self.admit(&constraints).await?;
        let engine = self.take(&admitted).await?;
        // On a GPU the resident set is not the memory that counts.
        let pid = engine.child.pid().filter(|_| body.memory.kind == DeviceKind::Cpu);
        admitted.peak_rss_pid = pid.filter(|pid| host::reset_peak_rss(*pid));
        Ok((engine, admitted))
    }

    /// Keeps an engine for the next task, unless it was left in the middle of a request or leaks memory.
    pub(super) async fn keep(&mut self, engine: EngineProcess, activity: &RenderActivity) {
        if activity.request_pending() {
            self.monitor.set_engine_pid(None);
            return;
        }
        let leak = engine.leak;
        self.idle = Some(engine);
        if let Some(leak) = leak {
            self.restarts += 1;
            tracing::warn!(%leak, restarts = self.restarts, "restarting the engine because it leaks memory");
            self.close().await;
        }
    }

    /// Records the lower bound of a plan's need that a task showed by running out of memory. A kill by the
    /// kernel shows none, as its cause is inferred.
    pub(super) fn record_out_of_memory(
        &mut self,
        constraints: &MemoryConstraints,
        outcome: &Result<Finish, Failure>,
    ) {
        if let Err(Failure::OutOfMemory(OutOfMemory {
            plan,
            needed_at_least_mib: Some(mib),
            suspected: false,
            ..
        })) = outcome
        {
            self.oom_bounds.record(constraints, *plan, *mib);
        }
    }

    /// Ends an idle engine if the host has too little memory for face analysis beside it.
    pub(super) async fn free_memory_for_media(&mut self) {
        let status = self.monitor.read(0).await;
        if self.idle.is_some() && !admission::media_fits(&status.snapshot, &self.settings.limits) {
            tracing::info!("ending the idle engine because face analysis needs the host's memory");
            self.close().await;
        }
    }

    /// Ends an idle engine because a chunk of the farm waits for memory.
    pub(super) async fn free_memory(&mut self) {
        if self.idle.is_some() {
            tracing::info!("ending the idle engine because a chunk of the farm waits for memory");
            self.close().await;
        }
    }

    /// Ends the idle engine, if there is one, so that it gives its memory back.
    pub(super) async fn close(&mut self) {
        if let Some(engine) = self.idle.take() {
            self.monitor.set_engine_pid(None);
            engine.child.close().await;
        }
    }

    /// Chooses the task's memory plan by what is free now, and reserves the memory. Other workers of this
    /// host admit no task meanwhile.
    async fn admit(&mut self, constraints: &MemoryConstraints) -> Result<AdmittedTask, Failure> {
        let kind = constraints.kind;
        let device = self.settings.device.to_string();
        if kind != self.settings.device.kind() {
            return Err(Failure::WorkerUnfit {
                message: format!("the task is for a device of kind {kind}, and this worker's is {device}"),
            });
        }
        let lock = self.reservations.lock_admission().await;
        let others_mib = self.reservations.others_mib();
        let status = self.monitor.read(others_mib).await;
        let available = admission::available(&status.snapshot, &self.settings.limits);
        let (plan, need_mib) = admission::choose_plan(constraints, available.memory).map_err(|error| {
            Failure::InsufficientMemory {
                device: device.clone(),
                needed_mib: error.needed_mib,
                free_mib: error.free_mib,
            }
        })?;
        self.reservations
            .write(need_mib.saturating_sub(self.monitor.engine_own_mib()));
        self.monitor.record_admission(need_mib, others_mib);
        drop(lock);
        let free_mib = available.memory.of(kind).unwrap_or(0);
        tracing::info!(%device, %plan, need_mib, free_mib, "memory plan chosen");
        self.heartbeat_state.update(|heartbeat| {
            if let Some(task) = &mut heartbeat.task {
                task.plan = Some(plan);
            }
        });
        Ok(AdmittedTask {
            recorder: Mutex::new(MemoryRecorder::new(kind, device.clone(), plan, need_mib)),
            admission: Admission {
                kind,
                device,
                plan,
                free_mib,
            },
            need_mib,
            peak_rss_pid: None,
            kernel_peak_mib: OnceLock::new(),
        })
    }

    /// Returns the idle engine, or a new one if there is none or if the idle one's budget is less than the
    /// task needs. The caller returns it with [`WarmEngine::keep`] at the end of the task.
    async fn take(&mut self, admitted: &AdmittedTask) -> Result<EngineProcess, Failure> {
        if let Some(mut engine) = self.idle.take() {
            let is_alive = engine.child.is_alive();
            if is_alive && engine.budget_mib.is_none_or(|budget| budget >= admitted.need_mib) {
                engine.child.clear_log();
                return Ok(engine);
            }
            if is_alive {
                tracing::info!("restarting the engine with a larger memory budget");
            }
            self.monitor.set_engine_pid(None);
            engine.child.close().await;
        }
        let mut command = self.settings.engine.clone();
        // An engine on the host gets a budget, so that it ends a window in order before the kernel kills it
        // for want of memory.
        let is_on_host = self.settings.device == Device::Cpu;
        let budget_mib = is_on_host.then_some(admitted.admission.free_mib.max(1));
        if let Some(budget_mib) = budget_mib {
            command
                .args
                .extend(["--budget".into(), budget_mib.to_string().into()]);
        }
        let child = Child::spawn(&command).map_err(|error| Failure::WorkerUnfit {
            message: one_line(&error),
        })?;
        self.monitor.set_engine_pid(child.pid());
        Ok(EngineProcess {
            child,
            has_loaded: false,
            leak_detector: LeakDetector::default(),
            leak: None,
            budget_mib,
        })
    }
}
