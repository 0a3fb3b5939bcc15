//! The engine process that a runner keeps warm, and its admission to a task: which plan, with which budget, and what
//! other workers of this host have to leave to it. The runner in `mod.rs` owns it; a task in `render.rs` borrows it.

use std::sync::{Arc, Mutex, PoisonError};

use latentfarm_common::error::one_line;
use latentfarm_common::host;
use latentfarm_common::queues::Available;
use latentfarm_common::wire::memory::{DeviceKind, MemoryConstraints, MemoryPlan, MemoryUse, OutOfMemory};
use latentfarm_common::wire::outcome::Failure;
use latentfarm_common::wire::task::RenderTask;

use super::child::Child;
use super::leak::Growth;
use super::lessons::Lessons;
use super::loss::Admission;
use super::meter::Meter;
use super::overlap::Turn;
use super::pace::Pace;
use super::settings::RunnerSettings;
use super::sight::Sight;
use crate::consume::{Finished, Vitals};
use crate::machine::choice;
use crate::machine::claims::Claims;
use crate::machine::probe::Device;

/// An engine process that stays running between tasks.
#[derive(Debug)]
pub(super) struct Engine {
    pub(super) child: Child,
    pub(super) growth: Growth,
    /// MiB of host memory that the engine limits itself to; `None` on a GPU.
    budget_mib: Option<u64>,
}

/// A task that was admitted under a memory plan, with the memory that it uses.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) admission: Admission,
    pub(super) need_mib: u64,
    meter: Mutex<Meter>,
    /// The process whose peak resident set the kernel has counted since the task began.
    counted: Option<u32>,
}

impl Run {
    pub(super) fn meter<T>(&self, change: impl FnOnce(&mut Meter) -> T) -> T {
        change(&mut self.meter.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Ends the measurement and returns the memory that the task used.
    pub(super) fn finish(self) -> MemoryUse {
        let peak_mib = self.counted.map(host::peak_rss_mib);
        let meter = self.meter.into_inner().unwrap_or_else(PoisonError::into_inner);
        meter.finish(peak_mib)
    }
}

/// The device's engine, if one runs, and all that decides whether a task may use it.
pub(super) struct WarmEngine {
    pub(super) settings: Arc<RunnerSettings>,
    pub(super) sight: Sight,
    pub(super) vitals: Vitals,
    pub(super) claims: Claims,
    pub(super) pace: Pace,
    pub(super) idle: Option<Engine>,
    lessons: Lessons,
    /// Engines that were replaced because their memory grew.
    pub(super) restarts: u32,
}

impl WarmEngine {
    /// An engine that is started by the first task that needs one.
    pub(super) fn new(settings: Arc<RunnerSettings>, sight: Sight, vitals: Vitals) -> Self {
        let worker = vitals.snapshot().worker;
        Self {
            claims: Claims::new(&settings.claims, &settings.device.key(), worker.as_str()),
            pace: Pace::new(settings.silence_limit),
            settings,
            sight,
            vitals,
            idle: None,
            lessons: Lessons::default(),
            restarts: 0,
        }
    }

    /// What a task could use at this moment; shows it in the heartbeats.
    pub(super) async fn available(&mut self) -> Available {
        // A task that was dropped in its middle has left its claim.
        self.claims.release();
        let look = self.sight.look(self.claims.others_mib()).await;
        self.sight.show(&look, &self.vitals);
        choice::available(&look.snapshot, &self.settings.limits)
    }

    /// Finds room for a task and an engine to render it.
    pub(super) async fn begin(&mut self, body: &RenderTask) -> Result<(Engine, Run), Failure> {
        let constraints = self.lessons.applied_to(&body.model, &body.memory);
        let mut run = self.admit(&constraints).await?;
        let engine = self.take(&run).await?;
        // On a GPU the resident set says nothing of the device.
        let pid = engine.child.pid().filter(|_| body.memory.kind == DeviceKind::Cpu);
        run.counted = pid.filter(|pid| host::forget_peak(*pid));
        Ok((engine, run))
    }

    /// Keeps an engine warm, unless it was left in mid-computation, or its memory grows.
    pub(super) async fn keep(&mut self, engine: Engine, turn: &Turn) {
        if !turn.engine_answered() {
            self.sight.engine_is(None);
            return;
        }
        let grown = engine.growth.found().map(str::to_owned);
        self.idle = Some(engine);
        if let Some(grown) = grown {
            self.restarts += 1;
            tracing::warn!(
                restarts = self.restarts,
                "restarts the engine, which leaks: {grown}"
            );
            self.close().await;
        }
    }

    /// Notes what a task showed of its need. A kill shows nothing: its cause is a guess.
    pub(super) fn learn(&mut self, constraints: &MemoryConstraints, outcome: &Result<Finished, Failure>) {
        if let Err(Failure::OutOfMemory(OutOfMemory {
            plan,
            needed_at_least_mib: Some(mib),
            suspected: false,
            ..
        })) = outcome
        {
            self.lessons.ran_out(constraints, *plan, *mib);
        }
    }

    /// Ends an idle engine where the host has no room for face analysis beside it.
    pub(super) async fn make_room_for_media(&mut self) {
        let look = self.sight.look(0).await;
        if self.idle.is_some() && !choice::media_fits(&look.snapshot, &self.settings.limits) {
            tracing::info!("ends the idle engine: the host's memory is needed for face analysis");
            self.close().await;
        }
    }

    /// Ends the warm engine: its memory is needed elsewhere, or it keeps too much of it.
    pub(super) async fn close(&mut self) {
        if let Some(engine) = self.idle.take() {
            self.sight.engine_is(None);
            engine.child.close().await;
        }
    }

    /// Looks again at what is free, chooses the task's plan, and promises it the memory.
    async fn admit(&mut self, constraints: &MemoryConstraints) -> Result<Run, Failure> {
        let kind = constraints.kind;
        let device = self.settings.device.to_string();
        if kind != self.settings.device.kind() {
            return Err(Failure::WorkerUnfit {
                message: format!("{device} is no device of kind {kind}"),
            });
        }
        let gate = self.claims.gate().await;
        let look = self.sight.look(self.claims.others_mib()).await;
        let available = choice::available(&look.snapshot, &self.settings.limits);
        let (plan, need_mib) =
            choice::choose(constraints, available.memory).map_err(|too_small| Failure::NoRoom {
                device: device.clone(),
                needed_mib: too_small.needed_mib,
                free_mib: too_small.free_mib,
            })?;
        self.claims
            .write(need_mib.saturating_sub(self.sight.engine_own_mib()));
        drop(gate);
        let free_mib = available.memory.of(kind).unwrap_or(0);
        tracing::info!(%device, %plan, need_mib, free_mib, "memory plan");
        self.show_plan(plan);
        Ok(Run {
            meter: Mutex::new(Meter::new(kind, device.clone(), plan, need_mib)),
            admission: Admission {
                kind,
                device,
                plan,
                free_mib,
            },
            need_mib,
            counted: None,
        })
    }

    fn show_plan(&self, plan: MemoryPlan) {
        self.vitals.update(|heartbeat| {
            if let Some(task) = &mut heartbeat.task {
                task.plan = Some(plan);
            }
        });
    }

    /// The warm engine, or a fresh one if there is none, or if the warm one allows itself less than the task needs. The
    /// caller gives it to [`WarmEngine::keep`] once the conversation has ended.
    async fn take(&mut self, run: &Run) -> Result<Engine, Failure> {
        if let Some(mut engine) = self.idle.take() {
            let is_alive = engine.child.is_alive();
            if is_alive && engine.budget_mib.is_none_or(|budget| budget >= run.need_mib) {
                engine.child.forget_words();
                return Ok(engine);
            }
            if is_alive {
                tracing::info!("restarts the engine with a larger budget");
            }
            self.sight.engine_is(None);
            engine.child.close().await;
        }
        let mut command = self.settings.engine.clone();
        // An engine on the host is told what it may take, so that it ends a window in order before the kernel ends the
        // engine.
        let is_on_host = self.settings.device == Device::Cpu;
        let budget_mib = is_on_host.then_some(run.admission.free_mib.max(1));
        if let Some(budget_mib) = budget_mib {
            command
                .args
                .extend(["--budget".into(), budget_mib.to_string().into()]);
        }
        let child = Child::spawn(&command).map_err(|error| Failure::WorkerUnfit {
            message: one_line(&error),
        })?;
        self.sight.engine_is(child.pid());
        Ok(Engine {
            child,
            growth: Growth::default(),
            budget_mib,
        })
    }
}
