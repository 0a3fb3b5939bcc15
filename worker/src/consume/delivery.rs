//! A delivered task message and the answers to it. `handle.rs` makes one for each message and ends it with
//! exactly one answer; failures are published as events before that.

use std::time::Duration;

use latentfarm_common::error::one_line;
use latentfarm_common::ids::{Attempt, ChunkId, WorkerId};
use latentfarm_common::nats::Connection;
use latentfarm_common::nats::ack::{AckError, InProgress};
use latentfarm_common::nats::events;
use latentfarm_common::nats::topology::MAX_DELIVER;
use latentfarm_common::wire::outcome::{Event, EventKind, Failure};
use latentfarm_common::wire::task::Task;

use super::task_message::UnreadableTask;

/// How long the event of a failure may take to be stored. If it is not stored, the task is not terminated.
const FAILURE_LIMIT: Duration = Duration::from_mins(1);
/// How long the other events may take to be stored.
const STARTED_LIMIT: Duration = Duration::from_secs(10);
/// The delay after which a task that this worker cannot check or run is delivered again, to any worker.
const RETRY_DELAY: Duration = Duration::from_secs(5);
/// The delay after which a task that only others may run is delivered again. It is short, as one of them may be idle and
/// just not have asked first.
const EXCLUDED_DELAY: Duration = Duration::from_secs(1);

/// The outcome of a delivery, by which the loop counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DeliveryOutcome {
    /// This worker wrote the chunk's done record.
    Finished,
    /// The task ran out of memory, was cancelled or given back, or another worker's result came first.
    Unfinished,
    /// The task failed for another reason.
    Failed,
    /// The task was not run, as its chunk is done or its done record could not be read.
    Skipped,
    /// The task is given back, because it needs tags that this worker does not have.
    LacksTags,
    /// This worker cannot run such tasks.
    Unfit,
}

/// A delivered message that is held with in-progress acknowledgements until it gets its final answer.
pub(super) struct Delivery {
    pub(super) connection: Connection,
    pub(super) worker: WorkerId,
    pub(super) held: InProgress,
    /// How often the message has been delivered, this delivery included.
    pub(super) deliveries: i64,
}

impl Delivery {
    /// Publishes an event about the task. Returns false if it was not stored.
    pub(super) async fn publish_event(&mut self, chunk: ChunkId, attempt: Attempt, kind: EventKind) -> bool {
        let limit = match kind {
            EventKind::Failed(_) => FAILURE_LIMIT,
            EventKind::Started | EventKind::Released => STARTED_LIMIT,
        };
        let event = Event {
            chunk,
            attempt,
            worker: self.worker.clone(),
            kind,
        };
        let published = events::publish(&self.connection, &event, limit).await;
        if let Err(error) = &published {
            tracing::warn!(%chunk, error = one_line(error), "an event was not stored");
        }
        published.is_ok()
    }

    /// Reports the failure of a task and terminates it, as the coordinator decides about the next attempt. If
    /// this worker is unfit or the report was not stored, the task is delivered again instead.
    pub(super) async fn fail(mut self, task: &Task, failure: Failure) -> DeliveryOutcome {
        tracing::warn!(chunk = %task.chunk, attempt = %task.attempt, ?failure, "task failed");
        let unfit = matches!(failure, Failure::WorkerUnfit { .. });
        let outcome = match &failure {
            Failure::Transient { .. } | Failure::EngineLost { .. } | Failure::BadInput { .. } => {
                DeliveryOutcome::Failed
            }
            Failure::OutOfMemory(_) | Failure::InsufficientMemory { .. } | Failure::WorkerUnfit { .. } => {
                DeliveryOutcome::Unfinished
            }
        };
        let stored = self
            .publish_event(task.chunk, task.attempt, EventKind::Failed(failure))
            .await;
        match (unfit, stored) {
            (true, _) => self.retry_later(DeliveryOutcome::Unfit).await,
            (false, true) => self.term(outcome).await,
            (false, false) => self.retry_later(outcome).await,
        }
    }

    /// Terminates a message that is no task of this release, and reports it if its chunk is known.
    pub(super) async fn reject(mut self, unreadable: UnreadableTask) -> DeliveryOutcome {
        let UnreadableTask {
            chunk,
            attempt,
            reason,
            is_of_another_release: _,
        } = unreadable;
        tracing::error!(?chunk, %attempt, reason, "terminated a task that cannot be read");
        let Some(chunk) = chunk else {
            return self.term(DeliveryOutcome::Unfinished).await;
        };
        let message = format!("worker {} cannot read the task: {reason}", self.worker);
        let kind = EventKind::Failed(Failure::Transient { message });
        self.publish_event(chunk, attempt, kind).await;
        self.term(DeliveryOutcome::Unfinished).await
    }

    /// Terminates a task that is not wanted any more.
    pub(super) async fn cancel(mut self, task: &Task) -> DeliveryOutcome {
        tracing::info!(chunk = %task.chunk, "task cancelled");
        self.publish_event(task.chunk, task.attempt, EventKind::Released)
            .await;
        self.term(DeliveryOutcome::Unfinished).await
    }

    /// Gives a task back for another worker at once, as this one leaves.
    pub(super) async fn release(mut self, task: &Task) -> DeliveryOutcome {
        tracing::info!(chunk = %task.chunk, "task given back to the queue");
        self.publish_event(task.chunk, task.attempt, EventKind::Released)
            .await;
        self.nak(None, DeliveryOutcome::Unfinished).await
    }

    /// Gives back a task that was not begun, so that another worker takes it at once.
    pub(super) async fn give_back(self, task: &Task) -> DeliveryOutcome {
        tracing::debug!(chunk = %task.chunk, "a task that was not begun is given back");
        self.nak(None, DeliveryOutcome::Skipped).await
    }

    /// Acknowledges the task: it is not delivered again.
    pub(super) async fn ack(self, outcome: DeliveryOutcome) -> DeliveryOutcome {
        log_unanswered(self.held.ack().await);
        outcome
    }

    /// Terminates the task: it is not delivered again, and another attempt needs a new message.
    async fn term(self, outcome: DeliveryOutcome) -> DeliveryOutcome {
        log_unanswered(self.held.term().await);
        outcome
    }

    /// Has the task delivered again, to any worker, after [`RETRY_DELAY`].
    pub(super) async fn retry_later(self, outcome: DeliveryOutcome) -> DeliveryOutcome {
        self.nak(Some(RETRY_DELAY), outcome).await
    }

    /// Has a task that this worker may not run delivered again, after [`EXCLUDED_DELAY`]. While the others are busy, that
    /// happens again and again: before the last delivery the coordinator is asked for a new message.
    pub(super) async fn leave_to_others(mut self, task: &Task, outcome: DeliveryOutcome) -> DeliveryOutcome {
        if self.deliveries + 1 >= MAX_DELIVER {
            self.publish_event(task.chunk, task.attempt, EventKind::Released)
                .await;
        }
        self.nak(Some(EXCLUDED_DELAY), outcome).await
    }

    /// Has the task delivered again after `delay`. A task that has been delivered too often would be stuck in
    /// the queue after its last delivery: it is terminated before that, and the coordinator, which finds it
    /// neither done nor queued, publishes it again.
    async fn nak(self, delay: Option<Duration>, outcome: DeliveryOutcome) -> DeliveryOutcome {
        if self.deliveries + 1 >= MAX_DELIVER {
            return self.term(outcome).await;
        }
        log_unanswered(self.held.nak(delay).await);
        outcome
    }
}

fn log_unanswered(answered: Result<(), AckError>) {
    if let Err(error) = answered {
        tracing::warn!(
            error = one_line(&error),
            "the answer about a task was not confirmed: the task may be delivered again, which is harmless"
        );
    }
}
