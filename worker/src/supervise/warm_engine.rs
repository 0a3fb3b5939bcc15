//! The engine process that a runner keeps running between tasks, and the admission of a task to it: its
//! memory plan, its budget, and the memory and the GPU that it shares with other workers of this host. The runner in
//! `mod.rs` owns it; a render task in `render.rs` borrows it.

use std::sync::Arc;
use std::time::Instant;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use latentfarm_common::error::one_line;
use latentfarm_common::queues::Available;
use latentfarm_common::wire::memory::{
    DeviceKind, MemoryConstraints, MemoryPlan, MemorySample, OutOfMemory, RenderMemory,
};
use latentfarm_common::wire::outcome::Failure;
use latentfarm_common::wire::task::RenderTask;

use super::activity::RenderActivity;
use super::admitted_task::AdmittedTask;
use super::child::Child;
use super::device_monitor::DeviceMonitor;
use super::device_turn::DeviceTurn;
use super::failure_class::Admission;
use super::hang_detector::HangDetector;
use super::leak_detector::{Leak, LeakDetector};
use super::leaner_plan::leaner_plan;
use super::oom_bounds::LocalOomBounds;
use super::settings::RunnerSettings;
use super::task_reservations::{ReservedMemory, TaskReservations};
use super::weights::TaskWeights;
use crate::consume::{Finish, HeartbeatState};
use crate::machine::admission;
use crate::machine::probe::Device;

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

/// The device's engine, if one runs, and what decides whether a task may use it.
pub(super) struct WarmEngine {
    pub(super) settings: Arc<RunnerSettings>,
    pub(super) monitor: DeviceMonitor,
    pub(super) heartbeat_state: HeartbeatState,
    pub(super) reservations: TaskReservations,
    /// This worker's turns on its GPU; `None` on the CPU.
    turn: Option<DeviceTurn>,
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
    /// The memory of the GPU that a task could use when it was last this worker's.
    last_device_mib: Option<u64>,
    /// The memory of the GPU that a task could use if it were this worker's; `None` if it is.
    withheld_mib: Option<u64>,
    pub(super) weights: TaskWeights,
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
            reservations: TaskReservations::new(&settings, worker.as_str()),
            turn: DeviceTurn::new(&settings, worker.as_str()),
            hang_detector: HangDetector::new(settings.silence_limit),
            weights: TaskWeights::new(settings.weights.clone()),
            settings,
            monitor,
            heartbeat_state,
            idle: None,
            oom_bounds: LocalOomBounds::default(),
            restarts: 0,
            last_used: None,
            last_snapshot: None,
            last_device_mib: None,
            withheld_mib: None,
        }
    }

    /// Returns the memory that a task could use at this moment, and updates the heartbeats. Called before
    /// each pull. A GPU that another worker of this host has offers none.
    pub(super) async fn available(&mut self) -> Available {
        // A task that was dropped before its end has left its reservation.
        self.reservations.release();
        if self.turn.as_ref().is_some_and(DeviceTurn::is_over) {
            tracing::info!("giving the GPU up to another worker of this machine, which waits for it");
            self.release_device().await;
        }
        let has_device = self.turn.as_mut().is_none_or(DeviceTurn::take);
        let status = self.monitor.read(self.reservations.of_others()).await;
        let limits = &self.settings.limits;
        let mut available = admission::available(&status.snapshot, limits);
        let device_mib = available.memory.device_mib;
        if has_device {
            self.last_device_mib = device_mib;
            self.withheld_mib = None;
        } else {
            // What the other worker's engine holds now is free when this worker's turn comes.
            let alone = || admission::capacity(&status.snapshot, limits).device_mib;
            self.withheld_mib = device_mib.max(self.last_device_mib.or_else(alone));
            available.memory.device_mib = None;
        }
        self.monitor.set_offered(self.withheld_mib);
        self.monitor.update_heartbeat(&status, &self.heartbeat_state);
        self.last_snapshot = Some(status.snapshot);
        available
    }

    /// Describes why no render task fitted before the last pull.
    pub(super) fn shortage(&self) -> String {
        if let (Some(turn), Some(_)) = (&self.turn, self.withheld_mib) {
            return turn.describe_user();
        }
        let describe = |snapshot| admission::describe_shortage(&snapshot, &self.settings.limits);
        self.last_snapshot.map(describe).unwrap_or_default()
    }

    /// The memory that a task could use besides if the GPU were not another worker's.
    pub(super) fn withheld(&self) -> RenderMemory {
        RenderMemory {
            host_mib: None,
            device_mib: self.withheld_mib,
        }
    }

    /// Notes whether the farm has tasks for the GPU of this worker.
    pub(super) fn set_device_needed(&mut self, is_needed: bool) {
        if let Some(turn) = &mut self.turn {
            turn.set_needed(is_needed);
        }
    }

    /// Gives the GPU up if no engine is idle on it, or if another worker waits for it.
    pub(super) async fn lend_device(&mut self) {
        if self.idle.is_none() || self.turn.as_ref().is_some_and(DeviceTurn::is_contended) {
            self.release_device().await;
        }
    }

    /// Returns a future that ends when the GPU may have become this worker's, or another worker waits for it.
    pub(super) fn device_changed(&self) -> BoxFuture<'static, ()> {
        let changed = self.turn.as_ref().map(DeviceTurn::changed);
        changed.unwrap_or_else(|| std::future::pending().boxed())
    }

    async fn release_device(&mut self) {
        if self.turn.is_some() {
            self.close().await;
        }
        if let Some(turn) = &mut self.turn {
            turn.release();
        }
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
        admitted.count_peak_rss_of(pid);
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
        let status = self.monitor.read(ReservedMemory::default()).await;
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
        let reserved_by_others = self.reservations.of_others();
        let status = self.monitor.read(reserved_by_others).await;
        let available = admission::available(&status.snapshot, &self.settings.limits);
        let (plan, need_mib) = admission::choose_plan(constraints, available.memory).map_err(|error| {
            Failure::InsufficientMemory {
                device: device.clone(),
                needed_mib: error.needed_mib,
                free_mib: error.free_mib,
            }
        })?;
        self.reservations.write(ReservedMemory {
            device_mib: need_mib.saturating_sub(self.monitor.engine_own_mib()),
            host_mib: self.monitor.host_growth_mib(),
        });
        self.monitor.record_admission(need_mib, reserved_by_others);
        drop(lock);
        let free_mib = available.memory.of(kind).unwrap_or(0);
        tracing::info!(%device, %plan, need_mib, free_mib, "memory plan chosen");
        self.heartbeat_state.update(|heartbeat| {
            if let Some(task) = &mut heartbeat.task {
                task.plan = Some(plan);
            }
        });
        let admission = Admission {
            kind,
            device,
            plan,
            free_mib,
        };
        Ok(AdmittedTask::new(*constraints, admission))
    }

    /// Has a task go on under the plan that follows the one under which the engine ran out of memory. Returns that plan;
    /// `None` if there is none, so that the attempt fails. `are_rendered` says whether windows of the chunk are rendered
    /// already.
    pub(super) fn go_leaner(
        &mut self,
        admitted: &AdmittedTask,
        shortage: &OutOfMemory,
        are_rendered: bool,
    ) -> Option<MemoryPlan> {
        let plan = leaner_plan(&admitted.constraints, shortage, are_rendered)?;
        if let Some(mib) = shortage.needed_at_least_mib {
            self.oom_bounds.record(&admitted.constraints, shortage.plan, mib);
        }
        admitted.change_plan(shortage, plan);
        let need_mib = admitted.need_mib();
        self.reservations.write(ReservedMemory {
            device_mib: need_mib.saturating_sub(self.monitor.engine_own_mib()),
            host_mib: self.monitor.host_growth_mib(),
        });
        let reserved_by_others = self.reservations.of_others();
        self.monitor.record_admission(need_mib, reserved_by_others);
        tracing::warn!(
            stage = shortage.stage.map(tracing::field::display),
            ran_out_under = %shortage.plan, %plan, need_mib,
            "out of memory: the request is repeated under a leaner memory plan"
        );
        self.heartbeat_state.update(|heartbeat| {
            if let Some(task) = &mut heartbeat.task {
                task.plan = Some(plan);
            }
        });
        Some(plan)
    }

    /// Returns the idle engine, or a new one if there is none or if the idle one's budget is less than the
    /// task needs. The caller returns it with [`WarmEngine::keep`] at the end of the task.
    async fn take(&mut self, admitted: &AdmittedTask) -> Result<EngineProcess, Failure> {
        if let Some(mut engine) = self.idle.take() {
            let is_alive = engine.child.is_alive();
            if is_alive
                && engine
                    .budget_mib
                    .is_none_or(|budget| budget >= admitted.need_mib())
            {
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
        let budget_mib = is_on_host.then_some(admitted.admission().free_mib.max(1));
        if let Some(budget_mib) = budget_mib {
            command
                .args
                .extend(["--budget".into(), budget_mib.to_string().into()]);
        }
        let mut lock = None;
        if let Some(turn) = &mut self.turn {
            // It was this worker's when the task was pulled.
            if !turn.take() {
                return Err(Failure::InsufficientMemory {
                    device: self.settings.device.to_string(),
                    needed_mib: admitted.need_mib(),
                    free_mib: 0,
                });
            }
            lock = turn.begin_engine();
        }
        let child = Child::spawn_with(&command, lock).map_err(|error| Failure::WorkerUnfit {
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
