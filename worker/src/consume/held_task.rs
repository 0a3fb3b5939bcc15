//! Opens a delivered message: reads the task, and finds out whether its chunk is done. The loop opens the task that
//! it runs next, and `held_tasks.rs` those that follow.

use std::sync::Arc;

use async_nats::jetstream::Message;
use latentfarm_common::blob::Store;
use latentfarm_common::error::one_line;
use latentfarm_common::nats::Connection;
use latentfarm_common::nats::ack::InProgress;
use latentfarm_common::nats::done::DoneLog;
use latentfarm_common::queues::Queue;
use latentfarm_common::wire::outcome::Failure;
use latentfarm_common::wire::task::Task;
use tokio::sync::watch;

use super::delivery::{Delivery, DeliveryOutcome};
use super::heartbeat_state::HeartbeatState;
use super::progress::Progress;
use super::runner::Prepared;
use super::settings::Settings;
use super::task_message::read_task;

/// What the handling of each task needs of the worker.
#[derive(Clone)]
pub(super) struct WorkerLink {
    pub(super) connection: Connection,
    pub(super) settings: Settings,
    pub(super) heartbeat_state: HeartbeatState,
}

/// A task that this worker holds. "In progress" is sent for it while its progress advances.
pub(super) struct HeldTask {
    pub(super) task: Task,
    pub(super) queue: Queue,
    /// The store that holds the task's blobs.
    pub(super) store: Store,
    pub(super) delivery: Delivery,
    pub(super) progress: Arc<Progress>,
    /// What was made for the task while it was held.
    pub(super) prepared: Option<Prepared>,
}

/// Opens a message. A message without a task to run is answered, and the outcome returned.
pub(super) async fn open(link: &WorkerLink, message: Message) -> Result<HeldTask, DeliveryOutcome> {
    let deliveries = message.info().map_or(1, |info| info.delivered);
    let read = read_task(&message.message);
    let hold = |steps| {
        let interval = link.settings.progress_interval;
        let (_content, held) = InProgress::begin(message, &link.connection, steps, interval);
        Delivery {
            connection: link.connection.clone(),
            worker: link.settings.worker.clone(),
            held,
            deliveries,
        }
    };
    let (task, queue) = match read {
        Ok(read) => read,
        Err(unreadable) => {
            let (_no_progress, steps) = watch::channel(0);
            let delivery = hold(steps);
            if !unreadable.is_of_another_release {
                return Err(delivery.reject(unreadable).await);
            }
            // Workers that were updated can read it, and this one takes no task until it is.
            tracing::error!(
                reason = unreadable.reason,
                "the farm's tasks are of another release"
            );
            link.heartbeat_state.set_problem(Some(unreadable.reason));
            return Err(delivery.retry_later(DeliveryOutcome::Unfit).await);
        }
    };
    let (progress, steps) = Progress::new(&link.heartbeat_state, task.chunk);
    let delivery = hold(steps);
    if task.excluded.contains(&link.settings.worker) {
        tracing::debug!(chunk = %task.chunk, "a task that is for another worker is given back");
        return Err(delivery.leave_to_others(&task, DeliveryOutcome::Skipped).await);
    }
    // The queue's tag is one of this worker's, but the task may need others too.
    if !link.settings.tags.cover(&task.needed_tags) {
        tracing::debug!(chunk = %task.chunk, needed = %task.needed_tags, "a task for workers with other tags is given back");
        return Err(delivery.leave_to_others(&task, DeliveryOutcome::LacksTags).await);
    }
    let store = match Store::open_existing(&task.store, Some(&link.connection.client)) {
        Ok(store) => store,
        Err(error) => {
            let message = one_line(&error);
            return Err(delivery.fail(&task, Failure::WorkerUnfit { message }).await);
        }
    };
    let chunk = task.chunk;
    match DoneLog::new(&link.connection).get(chunk).await {
        Ok(None) => Ok(HeldTask {
            task,
            queue,
            store,
            delivery,
            progress: Arc::new(progress),
            prepared: None,
        }),
        Ok(Some(entry)) if entry.record.is_ok() => {
            tracing::debug!(%chunk, "the chunk is done already");
            Err(delivery.ack(DeliveryOutcome::Skipped).await)
        }
        Ok(Some(_)) => {
            tracing::warn!(%chunk, "the chunk's done record cannot be read; the coordinator has to retract it");
            Err(delivery.retry_later(DeliveryOutcome::Skipped).await)
        }
        Err(error) => {
            tracing::warn!(%chunk, error = one_line(&error), "cannot check whether the chunk is done");
            Err(delivery.retry_later(DeliveryOutcome::Skipped).await)
        }
    }
}
