//! One task, from delivery to the final answer.

use std::time::Duration;

use async_nats::jetstream::Message;
use latentfarm_common::blob::Store;
use latentfarm_common::error::one_line;
use latentfarm_common::ids::{Attempt, ChunkId};
use latentfarm_common::nats::Connection;
use latentfarm_common::nats::ack::{AckError, InProgress};
use latentfarm_common::nats::done::DoneLog;
use latentfarm_common::nats::events;
use latentfarm_common::nats::subjects::Subject;
use latentfarm_common::nats::tasks::attempt_of;
use latentfarm_common::nats::topology::MAX_DELIVER;
use latentfarm_common::queues::Queue;
use latentfarm_common::shutdown::{Phase, Shutdown};
use latentfarm_common::wire;
use latentfarm_common::wire::outcome::{Control as Instruction, Event, EventKind, Failure};
use latentfarm_common::wire::task::{Task, TaskBody};
use tokio::sync::watch;
use tokio::time::Instant;

use super::commit::commit;
use super::control::Control;
use super::progress::Progress;
use super::runner::{Assignment, Finished, TaskRunner};
use super::settings::Settings;
use super::vitals::Vitals;

/// How long an event may take to be stored; without it the task is not terminated.
const EVENT_LIMIT: Duration = Duration::from_mins(1);
const STARTED_LIMIT: Duration = Duration::from_secs(10);
/// A task that this worker cannot judge or take comes back to any worker after this long.
const LATER: Duration = Duration::from_secs(5);
/// How often the log says what the worker is busy with.
const SAY_EVERY: Duration = Duration::from_mins(1);

/// What became of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Handled {
    /// This worker's record is the chunk's.
    Finished,
    Unfinished,
    /// There was nothing to do.
    Nothing,
    /// The worker cannot do such work.
    Unfit,
}

/// How the run ended.
#[expect(clippy::large_enum_variant, reason = "one lives at a time, for a moment")]
enum Ended {
    Ran(Result<Finished, Failure>),
    Cancelled,
    Released,
}

pub(super) async fn handle<R: TaskRunner>(
    connection: &Connection,
    settings: &Settings,
    runner: &mut R,
    vitals: &Vitals,
    message: Message,
    shutdown: &mut Shutdown,
    control: &mut Control,
) -> Handled {
    let deliveries = message.info().map_or(1, |info| info.delivered);
    let (progress, steps) = Progress::new(vitals);
    let (message, held) = InProgress::begin(message, steps, settings.tell_progress);
    let mut delivery = Delivery {
        connection,
        settings,
        held,
        deliveries,
    };
    let (task, queue) = match read_task(&message) {
        Ok(read) => read,
        Err(broken) => return delivery.refuse(broken).await,
    };
    let chunk = task.chunk;
    match DoneLog::new(connection).get(chunk).await {
        Ok(None) => {}
        Ok(Some(entry)) if entry.record.is_ok() => {
            tracing::debug!(%chunk, "is done already");
            return delivery.ack(Handled::Nothing).await;
        }
        Ok(Some(_)) => {
            tracing::warn!(%chunk, "has a record that cannot be read; the coordinator has to retract it");
            return delivery.later(Handled::Nothing).await;
        }
        Err(error) => {
            tracing::warn!(%chunk, error = one_line(&error), "cannot see whether it is done");
            return delivery.later(Handled::Nothing).await;
        }
    }
    vitals.set_task(chunk, task.attempt, frames_of(&task), Some(queue));
    tracing::info!(%chunk, attempt = %task.attempt, deliveries, "started");
    let started = Instant::now();
    let store = match Store::open_existing(&task.store, Some(&connection.client)) {
        Ok(store) => store,
        Err(error) => {
            let message = one_line(&error);
            return delivery.fail(&task, Failure::WorkerUnfit { message }).await;
        }
    };
    // The work does not wait until the event lies on the server's disk, but its answer does. An event that is
    // lost costs nothing: the coordinator takes a record, or a failure, of a task that it thinks is queued.
    let (_told, ended) = tokio::join!(
        delivery.tell(chunk, task.attempt, EventKind::Started, STARTED_LIMIT),
        run(settings, runner, &task, &store, &progress, shutdown, control)
    );
    match ended {
        Ended::Ran(Ok(finished)) => {
            match commit(connection, &settings.worker, &task, &store, finished, &progress).await {
                Ok(ours) => {
                    tracing::info!(%chunk, ours, seconds = started.elapsed().as_secs(), "done");
                    let handled = if ours {
                        Handled::Finished
                    } else {
                        Handled::Unfinished
                    };
                    delivery.ack(handled).await
                }
                Err(error) => {
                    let message = one_line(&error);
                    delivery.fail(&task, Failure::Transient { message }).await
                }
            }
        }
        Ended::Ran(Err(failure)) => delivery.fail(&task, failure).await,
        Ended::Cancelled => delivery.give_up(&task).await,
        Ended::Released => delivery.release(&task).await,
    }
}

/// Runs the task to its end, or until it is cancelled or the worker has to leave at once.
async fn run<R: TaskRunner>(
    settings: &Settings,
    runner: &mut R,
    task: &Task,
    store: &Store,
    progress: &Progress,
    shutdown: &mut Shutdown,
    control: &mut Control,
) -> Ended {
    let (stop, stop_receiver) = watch::channel(false);
    let running = runner.run(Assignment {
        task,
        store,
        progress,
        stop: stop_receiver,
    });
    tokio::pin!(running);
    let mut asked: Option<(Ended, Instant)> = None;
    let mut says = tokio::time::interval_at(Instant::now() + SAY_EVERY, SAY_EVERY);
    loop {
        let until_given_up = async {
            match &asked {
                Some((_, since)) => tokio::time::sleep_until(*since + settings.stop_grace).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // A result that is there counts, whatever else happened meanwhile.
            biased;
            result = &mut running => return match (result, asked) {
                (Err(_), Some((ended, _))) => ended,
                (Ok(_), Some((Ended::Cancelled, _))) => Ended::Cancelled,
                (result, _) => Ended::Ran(result),
            },
            () = until_given_up => {
                tracing::warn!(chunk = %task.chunk, "did not stop in time, it is dropped");
                return asked.map_or(Ended::Released, |(ended, _)| ended);
            }
            instruction = control.next() => {
                if instruction == Instruction::Cancel(task.chunk.job) && asked.is_none() {
                    stop.send_replace(true);
                    asked = Some((Ended::Cancelled, Instant::now()));
                }
            }
            () = shutdown.reached(Phase::Stopping), if asked.is_none() => {
                stop.send_replace(true);
                asked = Some((Ended::Released, Instant::now()));
            }
            _ = says.tick() => {
                tracing::info!(chunk = %task.chunk, steps = progress.steps(), "still at work");
            }
        }
    }
}

/// The held message and the answers to it.
struct Delivery<'a> {
    connection: &'a Connection,
    settings: &'a Settings,
    held: InProgress,
    deliveries: i64,
}

impl Delivery<'_> {
    /// Publishes an event about the task; false if it was not stored.
    async fn tell(&mut self, chunk: ChunkId, attempt: Attempt, kind: EventKind, limit: Duration) -> bool {
        let event = Event {
            chunk,
            attempt,
            worker: self.settings.worker.clone(),
            kind,
        };
        let published = events::publish(self.connection, &event, limit).await;
        if let Err(error) = &published {
            tracing::warn!(%chunk, error = one_line(error), "an event was not stored");
        }
        published.is_ok()
    }

    /// The task failed: reported, then terminated; the coordinator decides about the next attempt.
    async fn fail(mut self, task: &Task, failure: Failure) -> Handled {
        tracing::warn!(chunk = %task.chunk, attempt = %task.attempt, ?failure, "failed");
        let unfit = matches!(failure, Failure::WorkerUnfit { .. });
        let told = self
            .tell(task.chunk, task.attempt, EventKind::Failed(failure), EVENT_LIMIT)
            .await;
        match (unfit, told) {
            (true, _) => self.later(Handled::Unfit).await,
            (false, true) => self.term(Handled::Unfinished).await,
            (false, false) => self.later(Handled::Unfinished).await,
        }
    }

    /// A message that is no task of this release.
    async fn refuse(mut self, broken: Broken) -> Handled {
        let Broken {
            chunk,
            attempt,
            reason,
        } = broken;
        tracing::error!(?chunk, %attempt, reason, "terminated a task that cannot be read");
        let Some(chunk) = chunk else {
            return self.term(Handled::Unfinished).await;
        };
        let message = format!("worker {} cannot read the task: {reason}", self.settings.worker);
        let kind = EventKind::Failed(Failure::Transient { message });
        self.tell(chunk, attempt, kind, EVENT_LIMIT).await;
        self.term(Handled::Unfinished).await
    }

    /// The job was cancelled: nobody shall do it.
    async fn give_up(mut self, task: &Task) -> Handled {
        tracing::info!(chunk = %task.chunk, "cancelled");
        self.tell(task.chunk, task.attempt, EventKind::Released, STARTED_LIMIT)
            .await;
        self.term(Handled::Unfinished).await
    }

    /// This worker leaves: another shall do it, at once.
    async fn release(mut self, task: &Task) -> Handled {
        tracing::info!(chunk = %task.chunk, "given back");
        self.tell(task.chunk, task.attempt, EventKind::Released, STARTED_LIMIT)
            .await;
        self.give_back(None, Handled::Unfinished).await
    }

    async fn ack(self, handled: Handled) -> Handled {
        log_unanswered(self.held.ack().await);
        handled
    }

    async fn term(self, handled: Handled) -> Handled {
        log_unanswered(self.held.term().await);
        handled
    }

    async fn later(self, handled: Handled) -> Handled {
        self.give_back(Some(LATER), handled).await
    }

    /// Nak. A task that came back too often would be stuck in the queue after its last delivery; it is
    /// terminated before that, and the coordinator finds it neither done nor queued and publishes it again.
    async fn give_back(self, delay: Option<Duration>, handled: Handled) -> Handled {
        if self.deliveries + 1 >= MAX_DELIVER {
            return self.term(handled).await;
        }
        log_unanswered(self.held.nak(delay).await);
        handled
    }
}

fn log_unanswered(answered: Result<(), AckError>) {
    if let Err(error) = answered {
        tracing::warn!(
            error = one_line(&error),
            "the task may be delivered again, which is harmless"
        );
    }
}

/// Why a message is no task, as far as it could be read.
struct Broken {
    chunk: Option<ChunkId>,
    attempt: Attempt,
    reason: String,
}

/// The task in a message, and the queue that it was pulled from.
fn read_task(message: &async_nats::Message) -> Result<(Task, Queue), Broken> {
    let id = message
        .headers
        .as_ref()
        .and_then(|headers| headers.get(async_nats::header::NATS_MESSAGE_ID));
    let attempt = id.and_then(|id| attempt_of(id.as_str())).unwrap_or_default();
    let subject = message.subject.as_str();
    let Ok(Subject::Task { queue, chunk }) = subject.parse() else {
        let reason = format!("`{subject}` is not a task's subject");
        return Err(Broken {
            chunk: None,
            attempt,
            reason,
        });
    };
    let broken = |reason: String| Broken {
        chunk: Some(chunk),
        attempt,
        reason,
    };
    let task: Task = wire::decode(&message.payload).map_err(|error| broken(one_line(&error)))?;
    if task.chunk != chunk {
        return Err(broken(format!(
            "it is about {} but was published for {chunk}",
            task.chunk
        )));
    }
    Ok((task, queue))
}

fn frames_of(task: &Task) -> u32 {
    let range = match &task.body {
        TaskBody::Analyze(task) => task.range,
        TaskBody::Render(task) => task.range,
    };
    u32::try_from(range.len()).unwrap_or(u32::MAX)
}
