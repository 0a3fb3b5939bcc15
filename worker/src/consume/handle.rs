//! Handles one task from its delivery to the final answer to the broker. The worker's loop calls it for each
//! message that it pulls.

use std::time::Duration;

use async_nats::jetstream::Message;
use latentfarm_common::blob::Store;
use latentfarm_common::error::one_line;
use latentfarm_common::nats::Connection;
use latentfarm_common::nats::ack::InProgress;
use latentfarm_common::nats::done::DoneLog;
use latentfarm_common::shutdown::{Phase, Shutdown};
use latentfarm_common::wire::outcome::{EventKind, Failure, WorkerCommand};
use latentfarm_common::wire::task::Task;
use tokio::sync::watch;
use tokio::time::Instant;

use super::commit::commit;
use super::control_inbox::ControlInbox;
use super::delivery::{Delivery, DeliveryOutcome};
use super::heartbeat_state::HeartbeatState;
use super::progress::Progress;
use super::runner::{Assignment, TaskOutput, TaskRunner};
use super::settings::Settings;
use super::task_message::{frames_of, read_task};

/// How often the log reports that the task is still running.
const LOG_INTERVAL: Duration = Duration::from_mins(1);

/// How the runner's part ended.
#[expect(clippy::large_enum_variant, reason = "one lives at a time, for a moment")]
enum RunEnd {
    Ran(Result<TaskOutput, Failure>),
    /// The coordinator cancelled the job.
    Cancelled,
    /// The worker has to leave at once.
    Released,
}

/// Handles one delivery: reads the task, runs it unless its chunk is done, commits the result, and answers
/// the broker.
pub(super) async fn handle<R: TaskRunner>(
    connection: &Connection,
    settings: &Settings,
    runner: &mut R,
    heartbeat_state: &HeartbeatState,
    message: Message,
    shutdown: &mut Shutdown,
    control: &mut ControlInbox,
) -> DeliveryOutcome {
    let deliveries = message.info().map_or(1, |info| info.delivered);
    let (progress, steps) = Progress::new(heartbeat_state);
    let (message, held) = InProgress::begin(message, connection, steps, settings.progress_interval);
    let mut delivery = Delivery {
        connection,
        settings,
        held,
        deliveries,
    };
    let (task, queue) = match read_task(&message) {
        Ok(read) => read,
        Err(unreadable) => return delivery.reject(unreadable).await,
    };
    let chunk = task.chunk;
    match DoneLog::new(connection).get(chunk).await {
        Ok(None) => {}
        Ok(Some(entry)) if entry.record.is_ok() => {
            tracing::debug!(%chunk, "the chunk is done already");
            return delivery.ack(DeliveryOutcome::Skipped).await;
        }
        Ok(Some(_)) => {
            tracing::warn!(%chunk, "the chunk's done record cannot be read; the coordinator has to retract it");
            return delivery.retry_later(DeliveryOutcome::Skipped).await;
        }
        Err(error) => {
            tracing::warn!(%chunk, error = one_line(&error), "cannot check whether the chunk is done");
            return delivery.retry_later(DeliveryOutcome::Skipped).await;
        }
    }
    heartbeat_state.set_task(chunk, task.attempt, frames_of(&task), Some(queue));
    tracing::info!(%chunk, attempt = %task.attempt, deliveries, "task started");
    let started = Instant::now();
    let store = match Store::open_existing(&task.store, Some(&connection.client)) {
        Ok(store) => store,
        Err(error) => {
            let message = one_line(&error);
            return delivery.fail(&task, Failure::WorkerUnfit { message }).await;
        }
    };
    // The runner does not wait until the event is on the server's disk, but the answer to the broker does. A
    // lost event costs nothing: the coordinator accepts a record, or a failure, of a task that is queued by
    // its own account.
    let (_stored, end) = tokio::join!(
        delivery.publish_event(chunk, task.attempt, EventKind::Started),
        run(
            settings,
            runner,
            &task,
            (&store, connection),
            &progress,
            shutdown,
            control
        )
    );
    match end {
        RunEnd::Ran(Ok(finished)) => {
            let committed = tokio::select! {
                committed = commit(connection, &settings.worker, &task, &store, finished, &progress) => committed,
                // What waits for the server or for room in the store is given up when the worker has to
                // leave.
                () = grace_is_over(shutdown, settings.stop_grace) => return delivery.release(&task).await,
            };
            match committed {
                Ok(ours) => {
                    tracing::info!(%chunk, ours, seconds = started.elapsed().as_secs(), "task done");
                    let outcome = if ours {
                        DeliveryOutcome::Finished
                    } else {
                        DeliveryOutcome::Unfinished
                    };
                    delivery.ack(outcome).await
                }
                Err(error) => {
                    let message = one_line(&error);
                    delivery.fail(&task, Failure::Transient { message }).await
                }
            }
        }
        RunEnd::Ran(Err(failure)) => delivery.fail(&task, failure).await,
        RunEnd::Cancelled => delivery.cancel(&task).await,
        RunEnd::Released => delivery.release(&task).await,
    }
}

/// Waits until the worker has to leave at once and `grace` has passed since.
async fn grace_is_over(shutdown: &mut Shutdown, grace: Duration) {
    shutdown.reached(Phase::Stopping).await;
    tokio::time::sleep(grace).await;
}

/// Runs the task to its end, or until it is cancelled or the worker has to leave at once.
async fn run<R: TaskRunner>(
    settings: &Settings,
    runner: &mut R,
    task: &Task,
    (store, connection): (&Store, &Connection),
    progress: &Progress,
    shutdown: &mut Shutdown,
    control: &mut ControlInbox,
) -> RunEnd {
    let (stop, stop_receiver) = watch::channel(false);
    let running = runner.run(Assignment {
        task,
        store,
        link: Some(connection),
        progress,
        stop: stop_receiver,
    });
    tokio::pin!(running);
    let mut stop_request: Option<(RunEnd, Instant)> = None;
    let mut log_ticks = tokio::time::interval_at(Instant::now() + LOG_INTERVAL, LOG_INTERVAL);
    loop {
        let grace_over = async {
            match &stop_request {
                Some((_, since)) => tokio::time::sleep_until(*since + settings.stop_grace).await,
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
                tracing::warn!(chunk = %task.chunk, "the task did not stop in time and is dropped");
                return stop_request.map_or(RunEnd::Released, |(end, _)| end);
            }
            command = control.next() => {
                if command == WorkerCommand::Cancel(task.chunk.job) && stop_request.is_none() {
                    stop.send_replace(true);
                    stop_request = Some((RunEnd::Cancelled, Instant::now()));
                }
            }
            () = shutdown.reached(Phase::Stopping), if stop_request.is_none() => {
                stop.send_replace(true);
                stop_request = Some((RunEnd::Released, Instant::now()));
            }
            _ = log_ticks.tick() => {
                tracing::info!(chunk = %task.chunk, steps = progress.steps(), "the task is still running");
            }
        }
    }
}
