//! The warm engine, and its admission to a task: which plan, with which budget, and what other workers of this host
//! have to leave to it.

use std::sync::Mutex;

use latentfarm_common::error::one_line;
use latentfarm_common::wire::memory::{DeviceKind, MemoryConstraints, MemoryPlan};
use latentfarm_common::wire::outcome::Failure;
use latentfarm_common::wire::task::RenderTask;

use super::child::Child;
use super::leak::Growth;
use super::loss::Admission;
use super::meter::Meter;
use super::overlap::Turn;
use super::warm_engine::{Engine, Run};
use super::{Runner, RunnerSettings};
use crate::machine::choice;
use crate::machine::probe::Device;
use latentfarm_common::host;

impl Runner {
    /// Finds room for a task and an engine to render it.
    pub(super) async fn begin(&mut self, body: &RenderTask) -> Result<(Engine, Run), Failure> {
        let constraints = self.lessons.applied_to(&body.model, &body.memory);
        let mut run = self.admit(&constraints).await?;
        let engine = self.take_engine(&run).await?;
        // On a GPU the resident set says nothing of the device.
        let pid = engine.child.pid().filter(|_| body.memory.kind == DeviceKind::Cpu);
        run.counted = pid.filter(|pid| host::forget_peak(*pid));
        Ok((engine, run))
    }

    /// Keeps an engine warm, unless it was left in mid-computation, or its memory grows.
    pub(super) async fn keep(&mut self, engine: Option<Engine>, turn: &Turn) {
        let Some(engine) = engine else { return };
        if !turn.engine_answered() {
            self.sight.engine_is(None);
            return;
        }
        let grown = engine.growth.found().map(str::to_owned);
        self.engine = Some(engine);
        if let Some(grown) = grown {
            self.restarts += 1;
            tracing::warn!(
                restarts = self.restarts,
                "restarts the engine, which leaks: {grown}"
            );
            self.close_engine().await;
        }
    }

    /// Looks again at what is free, chooses the task's plan, and promises it the memory.
    async fn admit(&mut self, constraints: &MemoryConstraints) -> Result<Run, Failure> {
        let device = self.settings.device.to_string();
        if constraints.kind != self.settings.device.kind() {
            return Err(Failure::WorkerUnfit {
                message: format!("{device} is no device of kind {}", constraints.kind),
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
        let free_mib = available.memory.of(constraints.kind).unwrap_or(0);
        tracing::info!(%device, %plan, need_mib, free_mib, "memory plan");
        self.show_plan(plan);
        Ok(Run {
            meter: Mutex::new(Meter::new(constraints.kind, device.clone(), plan, need_mib)),
            admission: Admission {
                kind: constraints.kind,
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

    /// The warm engine, or a fresh one where there is none, or where the warm one allows itself less than the task
    /// needs. The caller puts it back once the conversation has ended well.
    async fn take_engine(&mut self, run: &Run) -> Result<Engine, Failure> {
        if let Some(mut engine) = self.engine.take() {
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
        let budget_mib = budget(&self.settings, run);
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

    /// Ends the warm engine: its memory is needed elsewhere, or it keeps too much of it.
    pub(super) async fn close_engine(&mut self) {
        if let Some(engine) = self.engine.take() {
            self.sight.engine_is(None);
            engine.child.close().await;
        }
    }
}

/// An engine on the host is told what it may take, so that it ends a window in order before the kernel ends the
/// engine.
fn budget(settings: &RunnerSettings, run: &Run) -> Option<u64> {
    (settings.device == Device::Cpu).then_some(run.admission.free_mib.max(1))
}
