//! Runs one task that the worker holds, and finishes it beside the next one: its last frames are encoded, its result
//! is committed, and the broker gets the final answer.

use std::time::Duration;

use latentfarm_common::error::one_line;
use latentfarm_common::queues::ResourceClass;
use latentfarm_common::shutdown::{Phase, Shutdown};
use latentfarm_common::wire::outcome::{EventKind, Failure, WorkerCommand, WorkerState};
use tokio::sync::watch;
use tokio::time::Instant;

use super::commit::commit;
use super::control_inbox::ControlInbox;
use super::delivery::DeliveryOutcome;
use super::held_task::{HeldTask, WorkerLink};
use super::held_tasks::HeldTasks;
use super::runner::{Assignment, Finish, TaskRunner};
use super::task_message::frames_of;

/// How often the log reports that the task is still running.
const LOG_INTERVAL: Duration = Duration::from_mins(1);

/// How the runner's part ended.
enum RunEnd {
    Ran(Result<Finish, Failure>),
    /// The coordinator cancelled the job, or has the chunk from another worker.
    Cancelled,
    /// The worker has to leave at once.
    Released,
}

/// A task whose device is free again, and that is still to be finished.
pub(super) struct Unfinished {
    held: HeldTask,
    finish: Finish,
    started: Instant,
}

/// Runs a task until its device is free, or until it has failed and is answered for.
pub(super) async fn handle<R: TaskRunner>(
    link: &WorkerLink,
    runner: &mut R,
    (mut held, was_held): (HeldTask, bool),
    held_tasks: &mut HeldTasks,
    shutdown: &mut Shutdown,
    control: &mut ControlInbox,
) -> Result<Unfinished, DeliveryOutcome> {
    let (chunk, attempt) = (held.task.chunk, held.task.attempt);
    let heartbeat_state = &link.heartbeat_state;
    heartbeat_state.set_task(chunk, attempt, frames_of(&held.task), Some(held.queue));
    tracing::info!(%chunk, %attempt, deliveries = held.delivery.deliveries, "task started");
    let started = Instant::now();
    let HeldTask {
        task,
        store,
        progress,
        prepared,
        delivery,
        ..
    } = &mut held;
    let (stop, stopped) = watch::channel(false);
    let assignment = Assignment {
        task,
        store,
        link: Some(&link.connection),
        progress,
        stop: stopped,
        was_held,
        prepared: prepared.take(),
    };
    // The runner does not wait until the event is on the server's disk, but the answer to the broker does. A
    // lost event costs nothing: the coordinator accepts a record, or a failure, of a task that is queued by
    // its own account.
    let (_stored, end) = tokio::join!(
        delivery.publish_event(chunk, attempt, EventKind::Started),
        run(link, runner, (assignment, stop), held_tasks, shutdown, control)
    );
    let outcome = match end {
        RunEnd::Ran(Ok(finish)) => {
            if held.queue.lane.class != ResourceClass::Analyze {
                held_tasks.record_pace(started.elapsed());
            }
            heartbeat_state.begin_finishing(chunk);
            return Ok(Unfinished {
                held,
                finish,
                started,
            });
        }
        RunEnd::Ran(Err(failure)) => {
            if let Failure::WorkerUnfit { message } = &failure {
                heartbeat_state.set_problem(Some(message.clone()));
            }
            held.delivery.fail(&held.task, failure).await
        }
        RunEnd::Cancelled => held.delivery.cancel(&held.task).await,
        RunEnd::Released => held.delivery.release(&held.task).await,
    };
    heartbeat_state.end_task(chunk);
    Err(outcome)
}

/// Finishes a task: waits for its result, commits it, and answers the broker.
pub(super) async fn finish(
    link: WorkerLink,
    unfinished: Unfinished,
    mut shutdown: Shutdown,
) -> DeliveryOutcome {
    let Unfinished {
        held:
            HeldTask {
                task,
                store,
                delivery,
                progress,
                ..
            },
        finish,
        started,
    } = unfinished;
    let chunk = task.chunk;
    let committed = async {
        let output = finish.await?;
        let committed = commit(&link.connection, &link.settings, &task, &store, output, &progress);
        committed.await.map_err(|error| Failure::Transient {
            message: one_line(&error),
        })
    };
    let committed = tokio::select! {
        committed = committed => Some(committed),
        // What waits for the server or for room in the store is given up when the worker has to leave.
        () = grace_is_over(&mut shutdown, link.settings.stop_grace) => None,
    };
    let outcome = match committed {
        Some(Ok(ours)) => {
            tracing::info!(%chunk, ours, seconds = started.elapsed().as_secs(), "task done");
            let outcome = if ours {
                DeliveryOutcome::Finished
            } else {
                DeliveryOutcome::Unfinished
            };
            delivery.ack(outcome).await
        }
        Some(Err(failure)) => delivery.fail(&task, failure).await,
        None => delivery.release(&task).await,
    };
    link.heartbeat_state.end_task(chunk);
    if outcome == DeliveryOutcome::Finished {
        link.heartbeat_state.update(|heartbeat| heartbeat.finished += 1);
    }
    outcome
}

/// Waits until the worker has to leave at once and `grace` has passed since.
async fn grace_is_over(shutdown: &mut Shutdown, grace: Duration) {
    shutdown.reached(Phase::Stopping).await;
    tokio::time::sleep(grace).await;
}

/// Runs the task until its device is free, or until it is cancelled or the worker has to leave at once. Meanwhile the
/// tasks that follow are taken.
async fn run<R: TaskRunner>(
    link: &WorkerLink,
    runner: &mut R,
    (assignment, stop): (Assignment<'_>, watch::Sender<bool>),
    held_tasks: &mut HeldTasks,
    shutdown: &mut Shutdown,
    control: &mut ControlInbox,
) -> RunEnd {
    let (chunk, progress) = (assignment.task.chunk, assignment.progress);
    let running = runner.run(assignment);
    tokio::pin!(running);
    let mut leaving = shutdown.clone();
    let mut stop_request: Option<(RunEnd, Instant)> = None;
    let mut is_leaving = false;
    let mut kept_at = progress.steps();
    // What is held besides is kept as long as this task advances.
    let keep_interval = link.settings.progress_interval / 2;
    let mut keep_ticks = tokio::time::interval_at(Instant::now() + keep_interval, keep_interval);
    let mut log_ticks = tokio::time::interval_at(Instant::now() + LOG_INTERVAL, LOG_INTERVAL);
    loop {
        let stopped_since = stop_request.as_ref().map(|(_, since)| *since);
        let grace_over = async {
            match stopped_since {
                Some(since) => tokio::time::sleep_until(since + link.settings.stop_grace).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // A result that is ready counts, whatever else happens at the same time.
            biased;
            result = &mut running => return match (result, stop_request) {
                (Err(_), Some((end, _))) => end,
                (Ok(_), Some((RunEnd::Cancelled, _))) => RunEnd::Cancelled,
                (result, _) => RunEnd::Ran(result),
            },
            () = grace_over => {
                tracing::warn!(%chunk, "the task did not stop in time and is dropped");
                return stop_request.map_or(RunEnd::Released, |(end, _)| end);
            }
            command = control.next() => {
                held_tasks.obey(&command);
                if control.draining() {
                    link.heartbeat_state.set_state(WorkerState::Draining);
                }
                let stops = [WorkerCommand::Cancel(chunk.job), WorkerCommand::Abandon(chunk)];
                if stops.contains(&command) && stop_request.is_none() {
                    stop.send_replace(true);
                    stop_request = Some((RunEnd::Cancelled, Instant::now()));
                }
            }
            () = shutdown.reached(Phase::Stopping), if stop_request.is_none() => {
                stop.send_replace(true);
                stop_request = Some((RunEnd::Released, Instant::now()));
            }
            () = leaving.reached(Phase::Draining), if !is_leaving => {
                is_leaving = true;
                link.heartbeat_state.set_state(WorkerState::Draining);
                held_tasks.give_back_all();
            }
            () = held_tasks.taken(), if !is_leaving && control.takes_tasks() => {}
            _ = keep_ticks.tick() => {
                if std::mem::replace(&mut kept_at, progress.steps()) != progress.steps() {
                    held_tasks.step();
                }
            }
            _ = log_ticks.tick() => {
                tracing::info!(%chunk, steps = progress.steps(), "the task is still running");
            }
        }
    }
}
