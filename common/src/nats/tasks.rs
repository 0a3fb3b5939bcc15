//! The queue of tasks, as the coordinator sees it: publish, list, remove.

use std::collections::BTreeSet;
use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::message::PublishMessage;
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use tokio::sync::Mutex;

use super::connect::Connection;
use super::subjects::{self, Subject};
use super::topology::{self, Topology, TopologyError};
use crate::backoff::Backoff;
use crate::ids::{Attempt, ChunkId, JobId};
use crate::queues::Queue;
use crate::wire::task::Task;
use crate::wire::{self, MAX_MESSAGE_BYTES, WireError};

/// Publishes on their way at a time.
const IN_FLIGHT: usize = 64;
/// Covers a short restart of the server; a repeat within the duplicate window is recognised by its id.
const TRIES: u32 = 3;
const RETRY: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(1));

/// Why tasks could not be published, listed or removed.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    #[error("cannot encode the task of {chunk}")]
    Encode {
        chunk: ChunkId,
        #[source]
        source: WireError,
    },
    #[error("the task of {chunk} has {bytes} bytes, but at most {MAX_MESSAGE_BYTES} go into a message")]
    TooLarge { chunk: ChunkId, bytes: usize },
    #[error(transparent)]
    Queue(#[from] TopologyError),
    #[error("cannot publish the task of {chunk}")]
    Publish {
        chunk: ChunkId,
        #[source]
        source: jetstream::context::PublishError,
    },
    #[error("cannot list the queued tasks")]
    List(#[source] async_nats::Error),
    #[error("cannot remove the tasks under `{filter}`")]
    Remove {
        filter: String,
        #[source]
        source: async_nats::Error,
    },
}

/// What became of a publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Published {
    Queued,
    /// This attempt was published before, within the duplicate window; it is not queued again.
    Duplicate,
}

/// Id by which the server recognises a repeated publish: `<chunk>.<number of the attempt>`.
pub fn message_id(chunk: ChunkId, attempt: Attempt) -> String {
    format!("{chunk}.{}", attempt.number)
}

/// The attempt in a message id, which does not know the epoch; for a task whose payload cannot be read.
pub fn attempt_of(message_id: &str) -> Option<Attempt> {
    let number = message_id.rsplit_once('.')?.1.parse().ok()?;
    Some(Attempt { epoch: 0, number })
}

/// Handle to the queue. Remembers which queues exist.
#[derive(Debug)]
pub struct TaskStream {
    connection: Connection,
    topology: Topology,
    queues: Mutex<BTreeSet<Queue>>,
}

impl TaskStream {
    pub fn new(connection: &Connection, topology: Topology) -> Self {
        Self {
            connection: connection.clone(),
            topology,
            queues: Mutex::new(BTreeSet::new()),
        }
    }

    /// Publishes one task, creating its queue if need be, and rings for idle workers.
    pub async fn publish(&self, queue: Queue, task: &Task) -> Result<Published, TaskError> {
        let published = self.publish_all(queue, std::slice::from_ref(task)).await?;
        Ok(published.first().copied().unwrap_or(Published::Duplicate))
    }

    /// Publishes tasks, in no particular order among themselves. On an error some may have been published.
    pub async fn publish_all(&self, queue: Queue, tasks: &[Task]) -> Result<Vec<Published>, TaskError> {
        self.ensure_lane(queue).await?;
        // Made outside the stream: a closure over references would not be `Send` for every lifetime.
        let publishes: Vec<_> = tasks.iter().map(|task| self.publish_one(queue, task)).collect();
        let answers = futures::stream::iter(publishes)
            .buffered(IN_FLIGHT)
            .try_collect::<Vec<_>>()
            .await?;
        let wake = Subject::Wake(queue.class).to_string();
        let rung = self
            .connection
            .client
            .publish(wake, Bytes::from(queue.to_string()))
            .await;
        if let Err(error) = rung {
            tracing::debug!(%error, "the doorbell did not ring; idle workers look every few seconds");
        }
        Ok(answers)
    }

    async fn ensure_lane(&self, queue: Queue) -> Result<(), TopologyError> {
        let mut queues = self.queues.lock().await;
        if !queues.contains(&queue) {
            topology::ensure_lane(&self.connection.context, &self.topology, queue).await?;
            queues.insert(queue);
        }
        Ok(())
    }

    async fn publish_one(&self, queue: Queue, task: &Task) -> Result<Published, TaskError> {
        let chunk = task.chunk;
        let payload = wire::encode(task).map_err(|source| TaskError::Encode { chunk, source })?;
        if payload.len() > MAX_MESSAGE_BYTES {
            let bytes = payload.len();
            return Err(TaskError::TooLarge { chunk, bytes });
        }
        let subject = Subject::Task { queue, chunk }.to_string();
        let message = PublishMessage::build()
            .payload(payload.into())
            .message_id(message_id(chunk, task.attempt))
            .expected_stream(topology::TASKS);
        let mut backoff = RETRY;
        let mut tries = 1;
        loop {
            match self.connection.publish(subject.clone(), message.clone()).await {
                // On a later try the duplicate may be our own.
                Ok(ack) if ack.duplicate && tries == 1 => return Ok(Published::Duplicate),
                Ok(_) => return Ok(Published::Queued),
                Err(source) if tries == TRIES => return Err(TaskError::Publish { chunk, source }),
                Err(error) => {
                    tracing::warn!(%chunk, %error, "cannot publish a task yet, trying again");
                    tries += 1;
                    tokio::time::sleep(backoff.next_delay()).await;
                }
            }
        }
    }

    /// Every queued or running task of a job.
    pub async fn queued(&self, job: JobId) -> Result<Vec<(Queue, ChunkId)>, TaskError> {
        let context = &self.connection.context;
        let list = async {
            let stream = context.get_stream_no_info(topology::TASKS).await?;
            let mut subjects = stream.info_with_subjects(subjects::tasks_of_job(job)).await?;
            let mut tasks = Vec::new();
            while let Some((subject, _)) = subjects.try_next().await? {
                if let Ok(Subject::Task { queue, chunk }) = subject.parse() {
                    tasks.push((queue, chunk));
                }
            }
            Ok(tasks)
        };
        let mut tasks = list.await.map_err(TaskError::List)?;
        tasks.sort_by_key(|(_, chunk)| *chunk);
        Ok(tasks)
    }

    /// Removes every task of a job, running ones too. Returns their number.
    pub async fn remove_job(&self, job: JobId) -> Result<u64, TaskError> {
        self.remove(subjects::tasks_of_job(job)).await
    }

    /// Removes the tasks for a chunk from every queue. Returns their number.
    pub async fn remove_chunk(&self, chunk: ChunkId) -> Result<u64, TaskError> {
        self.remove(subjects::tasks_of_chunk(chunk)).await
    }

    async fn remove(&self, filter: String) -> Result<u64, TaskError> {
        let context = &self.connection.context;
        let purge = async {
            let stream = context.get_stream_no_info(topology::TASKS).await?;
            Ok::<_, async_nats::Error>(stream.purge().filter(filter.clone()).await?.purged)
        };
        purge.await.map_err(|source| TaskError::Remove { filter, source })
    }
}
