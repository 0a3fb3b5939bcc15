//! When a worker takes no task for a while: it is unfit, it fails one task after another, the coordinator has set it
//! aside, or its own settings keep it off duty.

use std::time::Duration;

use latentfarm_common::backoff::Backoff;
use latentfarm_common::nats::Connection;
use latentfarm_common::shutdown::{Phase, Shutdown};
use latentfarm_common::wire::outcome::WorkerState;
use tokio::time::{Instant, sleep_until, timeout};

use super::control_inbox::ControlInbox;
use super::delivery::DeliveryOutcome;
use super::error::ServeError;
use super::heartbeat_state::HeartbeatState;
use super::held_task::WorkerLink;
use super::held_tasks::HeldTasks;
use super::runner::TaskRunner;
use super::settings::Settings;

/// The rests of one worker after tasks that it could not do.
pub(super) struct Rests {
    unfit: Backoff,
    failing: Backoff,
    /// Whether the last task failed: only another failure after it leads to a rest.
    has_failed: bool,
}

impl Rests {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            unfit: settings.unfit_backoff.clone(),
            failing: settings.failure_backoff.clone(),
            has_failed: false,
        }
    }

    /// Ends the row of failures, as a task was done.
    pub(super) fn end(&mut self) {
        self.unfit.reset();
        self.failing.reset();
        self.has_failed = false;
    }

    /// Rests after a task, if its outcome calls for it, or until the shutdown begins. The tasks that are held go back to
    /// the queue meanwhile.
    pub(super) async fn after<R: TaskRunner>(
        &mut self,
        outcome: DeliveryOutcome,
        runner: &mut R,
        heartbeat_state: &HeartbeatState,
        held_tasks: &mut HeldTasks,
        shutdown: &mut Shutdown,
    ) {
        let Some((delay, state, why)) = self.due(outcome) else {
            return;
        };
        heartbeat_state.set_state(state);
        lay_down(runner, held_tasks).await;
        tracing::warn!(?delay, "{why}, and waits before it tries again");
        let _ = timeout(delay, shutdown.reached(Phase::Draining)).await;
    }

    /// How long to rest after a task, as what, and why.
    fn due(&mut self, outcome: DeliveryOutcome) -> Option<(Duration, WorkerState, &'static str)> {
        match outcome {
            DeliveryOutcome::Unfit => {
                let why = "this worker is unfit for its tasks";
                Some((self.unfit.next_delay(), WorkerState::Unfit, why))
            }
            DeliveryOutcome::Failed => {
                let is_repeated = std::mem::replace(&mut self.has_failed, true);
                let why = "this worker fails one task after another";
                is_repeated.then(|| (self.failing.next_delay(), WorkerState::Idle, why))
            }
            DeliveryOutcome::Finished
            | DeliveryOutcome::Unfinished
            | DeliveryOutcome::Skipped
            | DeliveryOutcome::LacksTags => None,
        }
    }
}

/// Gives back the tasks that are held, and lets other workers of the machine have the device.
async fn lay_down<R: TaskRunner>(runner: &mut R, held_tasks: &mut HeldTasks) {
    held_tasks.settle().await;
    held_tasks.give_back_all();
    runner.rest().await;
}

/// Takes no task while the coordinator has set the worker aside. Returns whether it has; the caller then looks again at
/// what has changed.
pub(super) async fn obey_pause<R: TaskRunner>(
    runner: &mut R,
    link: &WorkerLink,
    control: &mut ControlInbox,
    held_tasks: &mut HeldTasks,
    shutdown: &mut Shutdown,
) -> bool {
    let Some((until, reason)) = control.pause(Instant::now()) else {
        return false;
    };
    let heartbeat_state = &link.heartbeat_state;
    lay_down(runner, held_tasks).await;
    heartbeat_state.set_problem(Some(reason));
    heartbeat_state.set_state(WorkerState::SetAside);
    tokio::select! {
        () = sleep_until(until) => heartbeat_state.set_problem(None),
        () = control.changed() => {}
        () = shutdown.reached(Phase::Draining) => {}
    }
    true
}

/// Takes no task while the worker's own settings keep it off duty. Returns whether they did; the caller then looks again
/// at what has changed.
pub(super) async fn rest_off_duty<R: TaskRunner>(
    runner: &mut R,
    link: &WorkerLink,
    control: &mut ControlInbox,
    held_tasks: &mut HeldTasks,
    shutdown: &mut Shutdown,
) -> bool {
    let off_duty = &link.settings.off_duty;
    let Some(reason) = off_duty.reason() else {
        return false;
    };
    let heartbeat_state = &link.heartbeat_state;
    lay_down(runner, held_tasks).await;
    // The machine is somebody else's for now.
    runner.free_memory().await;
    tracing::info!("resting: {reason}");
    heartbeat_state.set_problem(Some(reason.clone()));
    heartbeat_state.set_state(WorkerState::Resting);
    tokio::select! {
        () = off_duty.changed(Some(&reason)) => heartbeat_state.set_problem(None),
        () = control.changed() => {}
        () = shutdown.reached(Phase::Draining) => {}
    }
    true
}

/// Joins the farm as a worker that cannot work, so that the farm shows why, and takes no task until `shutdown` or until
/// the coordinator requests a drain. The heartbeats have the problem.
pub async fn wait_unfit(
    connection: &Connection,
    settings: &Settings,
    heartbeat_state: &HeartbeatState,
    mut shutdown: Shutdown,
) -> Result<(), ServeError> {
    let _permit = shutdown.permit();
    let mut control = ControlInbox::subscribe(connection, &settings.worker).await?;
    heartbeat_state.update(|heartbeat| heartbeat.tags = settings.tags.clone());
    heartbeat_state.set_state(WorkerState::Unfit);
    let heartbeats = heartbeat_state.start_publisher(connection, settings.heartbeat_interval);
    while shutdown.is_running() && !control.draining() {
        tokio::select! {
            () = control.changed() => {}
            () = shutdown.reached(Phase::Draining) => {}
        }
    }
    heartbeat_state.set_state(WorkerState::Left);
    drop(heartbeats);
    heartbeat_state.publish(connection).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_failure_costs_no_time_and_each_further_one_more_until_a_task_is_done() {
        let (second, minute) = (Duration::from_secs(1), Duration::from_mins(1));
        let settings = Settings {
            failure_backoff: Backoff::new(second, minute),
            ..Settings::new("w1".parse().unwrap())
        };
        let mut rests = Rests::new(&settings);
        let mut delay = |outcome| rests.due(outcome).map(|(delay, _, _)| delay);
        assert_eq!(delay(DeliveryOutcome::Failed), None);
        let first = delay(DeliveryOutcome::Failed).unwrap();
        assert_eq!(
            delay(DeliveryOutcome::Unfinished),
            None,
            "a lack of memory is no fault"
        );
        let second = delay(DeliveryOutcome::Failed).unwrap();
        assert!(first > Duration::ZERO && second > first, "{first:?} {second:?}");
        rests.end();
        assert_eq!(rests.due(DeliveryOutcome::Failed), None);
    }
}
