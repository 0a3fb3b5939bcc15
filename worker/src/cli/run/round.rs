//! One round of `run`: chooses and checks the devices, and serves the farm with them until the process is to end, or until
//! a GPU that failed its check passes it.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::future::try_join_all;
use latentfarm_common::backoff::RetryLimit;
use latentfarm_common::ids::WorkerId;
use latentfarm_common::nats::Connection;
use latentfarm_common::nats::connect;
use latentfarm_common::numeric_kind::NumericKind;
use latentfarm_common::shutdown::{self, Phase, Shutdown, Trigger};
use latentfarm_common::tags::Tags;
use tokio::time::sleep;

use super::access::Access;
use super::args::RunArgs;
use super::duty::Reason;
use crate::cli::device_args::worker_names;
use crate::cli::engine_program::{dtype_args, thread_count};
use crate::cli::engines::Engines;
use crate::consume::{self, HeartbeatState, OffDuty};
use crate::machine::device_check::DeviceChecker;
use crate::machine::idle_gate::IdleGate;
use crate::machine::probe::{Device, FailedDevice, Probe, SelectedDevices};
use crate::machine::reservations::Reservations;
use crate::supervise::{ChildCommand, Runner, RunnerSettings, WeightsSource};
use latentfarm_engine::{Precision, numerics_fingerprint};

/// What stays the same in all rounds.
pub(super) struct FarmWorker {
    pub(super) args: RunArgs,
    pub(super) worker: WorkerId,
    pub(super) tags: Tags,
    pub(super) access: Access,
    /// Why the workers are off duty by their hours, if they have any.
    pub(super) off_hours: Option<Reason>,
    pub(super) own_program: PathBuf,
    pub(super) weights: WeightsSource,
    pub(super) scratch: PathBuf,
    pub(super) probe: Probe,
}

/// One device of a round, with the name of its worker.
struct Seat {
    name: WorkerId,
    device: Device,
    /// Why the device cannot be used, if it cannot.
    unfit: Option<String>,
}

impl FarmWorker {
    /// Serves the farm with the devices that can be used now. Returns whether another round is to follow, because a GPU that
    /// failed its check has passed it.
    pub(super) async fn round(&self, engines: Engines, shutdown: &Shutdown) -> anyhow::Result<bool> {
        let (devices, probe) = (self.args.devices.clone(), self.probe.clone());
        // A check waits for an engine, while signals still have to be answered.
        let selecting = tokio::task::spawn_blocking(move || {
            let mut engines = engines;
            let (selected, _) = devices.select(&probe, &mut engines);
            selected.map(|selected| (selected, engines))
        });
        let mut leaving = shutdown.clone();
        let (selected, engines) = tokio::select! {
            selected = selecting => selected??,
            () = leaving.reached(Phase::Draining) => return Ok(false),
        };
        drop(leaving);
        for failed in &selected.failed {
            tracing::warn!("{}", failed.describe());
        }
        let note = selected.note();
        if let Some(note) = &note {
            tracing::info!("{note}");
        }
        let problem = note.filter(|_| !selected.failed.is_empty());
        let failed = selected.failed.clone();
        let seats = self.seats(selected)?;
        let (trigger, round, drain) = shutdown::channel();
        let serving = try_join_all(seats.into_iter().map(|seat| {
            let problem = problem.clone();
            self.serve(seat, &engines, problem, round.clone())
        }));
        drop(round);
        let checker = engines.checker(&self.probe);
        let has_passed = Cell::new(false);
        let passing = async {
            let device = first_to_pass(checker, failed, self.recheck()).await;
            tracing::info!(%device, "the device passes its check now, and is used once the current chunks are finished");
            has_passed.set(true);
        };
        let ending = end_round(trigger, shutdown.clone(), passing);
        let mut ending = std::pin::pin!(ending);
        let mut serving = std::pin::pin!(serving);
        tokio::select! {
            served = &mut serving => served.map(drop)?,
            // The trigger has been pulled: the workers leave.
            () = &mut ending => serving.await.map(drop)?,
        }
        let _in_time = drain.finished(Duration::from_secs(5)).await;
        Ok(has_passed.get())
    }

    fn recheck(&self) -> Duration {
        Duration::from_secs(self.args.recheck)
    }

    /// Names a worker for each device. GPUs that failed their check join the farm too, so that it shows why they do not
    /// render, unless the CPU takes their place.
    fn seats(&self, mut selected: SelectedDevices) -> anyhow::Result<Vec<Seat>> {
        let args = &self.args;
        let most = args.gpus.map_or(WorkerId::MACHINE_GPUS, usize::from);
        let most = most.min(WorkerId::MACHINE_GPUS);
        let used = keep_emptiest(&mut selected.devices, most, &self.probe);
        // Others take the places of the rest.
        selected.failed.truncate(most - used);
        let is_replaced = selected.cpu_because.is_some();
        let mut seats: Vec<(Device, Option<String>)> = selected
            .devices
            .into_iter()
            .map(|device| (device, None))
            .collect();
        let failed = selected.failed.into_iter().filter(|_| !is_replaced);
        seats.extend(failed.map(|failed| {
            let problem = failed.describe();
            (failed.device, Some(problem))
        }));
        if args.exit_if_unfit
            && let Some((_, Some(problem))) = seats.first()
        {
            anyhow::bail!("{problem}");
        }
        let devices: Vec<Device> = seats.iter().map(|(device, _)| device.clone()).collect();
        let names = worker_names(&self.worker, &devices)?;
        let seats = names.into_iter().zip(seats);
        let seat = |(name, (device, unfit))| Seat { name, device, unfit };
        Ok(seats.map(seat).collect())
    }

    /// Joins the farm as one worker, and renders on its device until the round ends.
    async fn serve(
        &self,
        seat: Seat,
        engines: &Engines,
        problem: Option<String>,
        shutdown: Shutdown,
    ) -> anyhow::Result<()> {
        let Some(connection) = self.join(&seat.name, shutdown.clone()).await? else {
            return Ok(());
        };
        let heartbeat_state = HeartbeatState::new(seat.name.clone(), seat.device.to_string());
        let quiet_for = Duration::from_secs(self.args.quiet_for);
        let gate = self.args.yield_above.map(|mib| IdleGate::new(mib, quiet_for));
        let (gate, shut) = gate.unzip();
        let kind = numeric_kind(&seat.device, self.args.precision, &self.probe);
        let loop_settings = consume::Settings {
            kind: Some(kind),
            off_duty: OffDuty::of(self.off_hours.clone().into_iter().chain(shut)),
            tags: self.tags.clone(),
            ..consume::Settings::new(seat.name.clone())
        };
        if let Some(problem) = seat.unfit {
            let heartbeat_state = heartbeat_state.with_problem(Some(problem));
            consume::wait_unfit(&connection, &loop_settings, &heartbeat_state, shutdown).await?;
            connection.close().await;
            return Ok(());
        }
        tracing::info!(worker = %seat.name, device = %seat.device, "the worker has joined the farm");
        let heartbeat_state = heartbeat_state.with_problem(problem);
        let settings = self.runner_settings(&seat, engines, gate);
        let mut runner = Runner::new(settings, self.probe.clone(), heartbeat_state.clone());
        let serving = consume::serve(
            &connection,
            &loop_settings,
            &mut runner,
            &heartbeat_state,
            shutdown,
        );
        // The future is large: without the box it would be part of this one.
        Box::pin(serving).await?;
        runner.close().await;
        connection.close().await;
        Ok(())
    }

    /// Connects to the farm; `None` if the round ends first.
    async fn join(&self, name: &WorkerId, mut leaving: Shutdown) -> anyhow::Result<Option<Connection>> {
        let (url, identity) = (self.access.url(), self.access.identity(name)?);
        tokio::select! {
            connection = connect::connect(url, &identity, RetryLimit::Forever) => {
                Ok(Some(connection?))
            }
            () = leaving.reached(Phase::Draining) => Ok(None),
        }
    }

    fn runner_settings(&self, seat: &Seat, engines: &Engines, idle_gate: Option<IdleGate>) -> RunnerSettings {
        let args = &self.args;
        let threads = thread_count(args.threads).max(1);
        let (program, text, envs) = engines.command(&seat.device);
        let mut engine_args = vec!["--device".to_owned(), text];
        engine_args.extend(dtype_args(args.precision));
        engine_args.extend(
            args.cleanup
                .iter()
                .flat_map(|when| ["--cleanup".to_owned(), when.clone()]),
        );
        engine_args.extend(args.engine_arg.iter().cloned());
        let child = |name, program: &Path, args: Vec<String>, envs| ChildCommand {
            name,
            program: program.to_owned(),
            args: args.into_iter().map(Into::into).collect(),
            envs,
            threads,
        };
        RunnerSettings {
            weights: self.weights.clone(),
            media: child("media", &self.own_program, vec!["media".to_owned()], Vec::new()),
            engine: child("engine", program, engine_args, envs),
            device: seat.device.clone(),
            scratch: self.scratch.join(seat.name.as_str()),
            limits: args.devices.limits(),
            warn_gib: args.warn_gib.clone(),
            reservations_dir: Reservations::usual_root(),
            device_turn: Duration::from_secs(args.device_turn),
            idle_gate,
            silence_limit: Duration::from_secs(args.silence_limit),
        }
    }
}

/// Ends a round with the process, or when a GPU that failed its check is `passing` it.
async fn end_round(trigger: Trigger, mut process: Shutdown, passing: impl Future<Output = ()>) {
    tokio::select! {
        () = process.reached(Phase::Draining) => {}
        () = passing => {}
    }
    trigger.drain();
    process.reached(Phase::Stopping).await;
    trigger.stop();
}

/// Waits until one of the devices passes its check; they are checked each time that `interval` has passed.
async fn first_to_pass(checker: DeviceChecker, failed: Vec<FailedDevice>, interval: Duration) -> Device {
    loop {
        sleep(interval).await;
        for candidate in &failed {
            let Device::Cuda { gpu, .. } = &candidate.device else {
                continue;
            };
            let (checker, gpu) = (checker.clone(), gpu.clone());
            let passes = tokio::task::spawn_blocking(move || checker.engine_for(&gpu)).await;
            if let Ok(Ok(_engine)) = passes {
                return candidate.device.clone();
            }
        }
        if failed.is_empty() {
            return std::future::pending().await;
        }
    }
}

/// Returns the numeric kind of a device: two devices with the same answer render the same bits, if the same cuBLAS is
/// installed on both, whose version only the engine knows. It is in the fingerprint of each result.
fn numeric_kind(device: &Device, precision: Option<Precision>, probe: &Probe) -> NumericKind {
    let (computes_as, usual) = match device {
        // A simulated GPU computes on the CPU.
        Device::Cpu | Device::Simulated(_) => ("cpu".to_owned(), Precision::F32),
        Device::Cuda { gpu, .. } => {
            let driver = probe.driver_version().unwrap_or_default();
            (format!("cuda {}, driver {driver}", gpu.name), Precision::F16)
        }
    };
    let dtype = precision.unwrap_or(usual).dtype();
    NumericKind::of(&numerics_fingerprint(&computes_as, dtype))
}

/// Reduces the devices to `most` GPUs, those with the most free memory, and the CPU if it is one of them. Returns the number
/// of GPUs.
fn keep_emptiest(devices: &mut Vec<Device>, most: usize, probe: &Probe) -> usize {
    let is_gpu = |device: &Device| !matches!(device, Device::Cpu);
    let mut gpus: Vec<Device> = devices.iter().filter(|device| is_gpu(device)).cloned().collect();
    if gpus.len() <= most {
        return gpus.len();
    }
    let free = |device: &Device| probe.read(device).map_or(0, |reading| reading.free_mib);
    gpus.sort_by_key(|device| std::cmp::Reverse(free(device)));
    let left_out = gpus.split_off(most);
    tracing::info!(
        most,
        ?left_out,
        "this worker uses the GPUs with the most free memory"
    );
    devices.retain(|device| !left_out.contains(device));
    most
}
