//! The worker's loop: pulls a task that fits, has the runner run it, commits its result and answers the
//! broker. Each device of `latentfarm-worker run` has its own loop.
//!
//! ```text
//! free memory ─▶ queues that fit ─▶ pull ─▶ done already? ──yes──▶ ack
//!                                             │ no
//!                        ┌────────────▶ event: started
//!  held: tasks that      │                    │
//!  follow, pulled while ─┘        run the task ──failure──▶ event: failed ─▶ term
//!  the task runs                              │                     (unfit: nak, then wait)
//!                  beside the next task:      ▼
//!       encode the last frames ─▶ blob ─▶ check ─▶ done record by compare-and-set ─▶ ack
//! ```
//! The order of the last line is what makes repeats harmless: a task is acknowledged only after its chunk's
//! record exists, and the first record stays. A failure is published as an event before the task is
//! terminated, so that the coordinator decides about the next attempt and the broker's delivery count is
//! never the retry budget.

mod commit;
mod control_inbox;
mod delivery;
mod error;
mod handle;
mod heartbeat_state;
mod held_task;
mod held_tasks;
mod idle_reporter;
mod off_duty;
mod progress;
mod puller;
mod rest;
mod runner;
mod settings;
mod task_message;

use std::panic::resume_unwind;

use futures::future::BoxFuture;
use latentfarm_common::nats::Connection;
use latentfarm_common::queues::{Available, Queue, fitting};
use latentfarm_common::shutdown::Shutdown;
use latentfarm_common::wire::outcome::WorkerState;
use tokio::task::JoinSet;
use tokio::time::Instant;

pub use error::ServeError;
pub use heartbeat_state::HeartbeatState;
pub use off_duty::OffDuty;
pub use progress::Progress;
pub use rest::wait_unfit;
pub use runner::{Artifact, Assignment, Finish, Prepare, Prepared, TaskOutput, TaskRunner};
pub use settings::Settings;

use control_inbox::ControlInbox;
use delivery::DeliveryOutcome;
use held_task::{WorkerLink, open};
use held_tasks::HeldTasks;
use idle_reporter::IdleReporter;
use puller::TaskPuller;
use rest::{Rests, obey_pause, rest_off_duty};

/// How many tasks a worker ran until it left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// The number of chunks whose done record this worker wrote.
    pub finished: u64,
    /// The number of tasks that failed, or whose result came after that of another worker.
    pub unfinished: u64,
}

impl Summary {
    fn count(&mut self, outcome: DeliveryOutcome) {
        match outcome {
            DeliveryOutcome::Finished => self.finished += 1,
            DeliveryOutcome::Unfinished | DeliveryOutcome::Failed | DeliveryOutcome::Unfit => {
                self.unfinished += 1;
            }
            DeliveryOutcome::Skipped | DeliveryOutcome::LacksTags => {}
        }
    }

    /// Waits until at most one result is being stored: it may be beside the next task, and more would pile up.
    async fn leave_one(
        &mut self,
        finishing: &mut JoinSet<DeliveryOutcome>,
        held_tasks: &mut HeldTasks,
        settings: &Settings,
    ) {
        while finishing.len() > 1 {
            let counted = self.count_next(finishing);
            let in_time = tokio::time::timeout(settings.progress_interval, counted).await;
            if in_time.is_err() {
                // The store is full or away. Other workers may be able to go on.
                held_tasks.give_back_all();
            }
        }
    }

    /// Waits for the next of the tasks that are being finished, and counts it.
    async fn count_next(&mut self, finishing: &mut JoinSet<DeliveryOutcome>) {
        match finishing.join_next().await {
            Some(Ok(outcome)) => self.count(outcome),
            Some(Err(error)) if error.is_panic() => resume_unwind(error.into_panic()),
            Some(Err(_)) | None => {}
        }
    }
}

/// The queues that the worker would pull from too if another worker of its machine had not the device.
fn withheld<R: TaskRunner>(runner: &R, settings: &Settings) -> Vec<Queue> {
    let (analyze, memory) = (false, runner.withheld());
    fitting(&Available { analyze, memory }, settings.kind, &settings.tags)
}

/// Waits until the device has changed, or until the worker is off duty.
fn interrupted(device_changed: BoxFuture<'static, ()>, off_duty: OffDuty) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        tokio::select! {
            () = device_changed => {}
            () = off_duty.changed(None) => {}
        }
    })
}

/// Runs tasks until `shutdown` or the coordinator requests a drain. The current task is then finished, or
/// given back to the broker if the shutdown goes on to stopping.
pub async fn serve<R: TaskRunner>(
    connection: &Connection,
    settings: &Settings,
    runner: &mut R,
    heartbeat_state: &HeartbeatState,
    mut shutdown: Shutdown,
) -> Result<Summary, ServeError> {
    let _permit = shutdown.permit();
    let mut control = ControlInbox::subscribe(connection, &settings.worker).await?;
    let mut puller = TaskPuller::subscribe(connection, settings.poll_interval).await?;
    let mut rests = Rests::new(settings);
    heartbeat_state.update(|heartbeat| {
        heartbeat.kind = settings.kind;
        heartbeat.tags = settings.tags.clone();
    });
    let heartbeats = heartbeat_state.start_publisher(connection, settings.heartbeat_interval);
    let mut summary = Summary::default();
    let mut idle = IdleReporter::default();
    tracing::info!(worker = %settings.worker, "ready for tasks");
    let link = WorkerLink {
        connection: connection.clone(),
        settings: settings.clone(),
        heartbeat_state: heartbeat_state.clone(),
    };
    let mut held_tasks = HeldTasks::new(&link, runner.preparer());
    let mut finishing = JoinSet::new();
    loop {
        while let Some(command) = control.waiting() {
            held_tasks.obey(&command);
        }
        if !shutdown.is_running() || control.draining() {
            break;
        }
        summary.leave_one(&mut finishing, &mut held_tasks, settings).await;
        if held_tasks.is_empty() {
            held_tasks.settle().await;
        }
        if obey_pause(runner, &link, &mut control, &mut held_tasks, &mut shutdown).await
            || rest_off_duty(runner, &link, &mut control, &mut held_tasks, &mut shutdown).await
        {
            continue;
        }
        if control.take_memory_request() && held_tasks.is_empty() {
            runner.free_memory().await;
        }
        if puller.was_announced(&withheld(runner, settings)) {
            runner.need_device();
        }
        let available = runner.available().await;
        if settings.off_duty.reason().is_some() {
            continue;
        }
        let queues = fitting(&available, settings.kind, &settings.tags);
        let is_next = |queue: Queue| queues.contains(&queue) && !puller.has_more_urgent(&queues, queue);
        let held = held_tasks.pop_if(is_next);
        let was_held = held.is_some();
        let opened = if let Some(held) = held {
            Ok(held)
        } else {
            heartbeat_state.set_state(WorkerState::Idle);
            let wanted = [queues, withheld(runner, settings)];
            let interrupt = interrupted(runner.device_changed(), settings.off_duty.clone());
            let Some(message) = puller.pull(&wanted, interrupt, &mut shutdown, &mut control).await else {
                note_idle(&mut idle, connection, &available, &runner.shortage());
                runner.rest().await;
                continue;
            };
            let opened = open(&link, message).await;
            if matches!(opened, Err(DeliveryOutcome::LacksTags)) {
                puller.leave_queue_alone();
            }
            opened
        };
        idle.end();
        let handled = match opened {
            Ok(held) => {
                heartbeat_state.set_state(WorkerState::Working);
                held_tasks.extend(held.queue);
                let held = (held, was_held);
                handle::handle(&link, runner, held, &mut held_tasks, &mut shutdown, &mut control).await
            }
            Err(outcome) => Err(outcome),
        };
        // A request that came during the task was for workers without one. It is repeated while it holds.
        control.take_memory_request();
        match handled {
            Ok(unfinished) => {
                finishing.spawn(handle::finish(link.clone(), unfinished, shutdown.clone()));
                rests.end();
                heartbeat_state.set_problem(None);
            }
            Err(outcome) => {
                summary.count(outcome);
                rests
                    .after(outcome, runner, heartbeat_state, &mut held_tasks, &mut shutdown)
                    .await;
            }
        }
    }
    held_tasks.close().await;
    while !finishing.is_empty() {
        summary.count_next(&mut finishing).await;
    }
    drop(heartbeats);
    leave(&link, summary).await;
    Ok(summary)
}

/// Logs now and then why the worker has no task.
fn note_idle(idle: &mut IdleReporter, connection: &Connection, available: &Available, shortage: &str) {
    let link = (connection.is_up(), connection.url());
    if let Some(line) = idle.note(link, available, shortage, Instant::now()) {
        tracing::info!("{line}");
    }
}

/// Says for the last time how the worker is.
async fn leave(link: &WorkerLink, summary: Summary) {
    link.heartbeat_state.set_state(WorkerState::Left);
    link.heartbeat_state.publish(&link.connection).await;
    tracing::info!(worker = %link.settings.worker, finished = summary.finished, "leaving the farm");
}
