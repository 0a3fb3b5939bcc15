//! The stream of tasks as the coordinator uses it: publish, list, remove. Workers pull from it with
//! [`super::pull`].

use std::collections::BTreeSet;
use std::time::Duration;

use async_nats::jetstream::message::PublishMessage;
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use tokio::sync::Mutex;

use super::connect::Connection;
use super::error::StreamError;
use super::storage;
use super::subjects::{self, Subject};
use super::topology::{self, Topology};
use crate::backoff::{Backoff, Retry, RetryLimit};
use crate::ids::{Attempt, ChunkId, JobId};
use crate::queues::Queue;
use crate::wire::task::Task;
use crate::wire::{self, MAX_MESSAGE_BYTES, WireError};

/// Number of publishes that wait for their acknowledgement at a time.
const IN_FLIGHT: usize = 64;
/// These tries cover a short restart of the server, which recognises a repeat within the duplicate window by
/// its id.
const TRIES: RetryLimit = RetryLimit::Tries(3);
const RETRY: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(1));

/// Why tasks could not be published, listed or removed.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// The task has no encoding: no further try can succeed.
    #[error("cannot encode the task of {chunk}")]
    Encode {
        /// The chunk of the task.
        chunk: ChunkId,
        /// The error that the encoder returned.
        source: WireError,
    },
    /// The task is longer than a message may be: no further try can succeed.
    #[error("the task of {chunk} has {bytes} bytes, but at most {MAX_MESSAGE_BYTES} go into a message")]
    TooLarge {
        /// The chunk of the task.
        chunk: ChunkId,
        /// Length of the encoded task.
        bytes: usize,
    },
    /// A request to the server failed.
    #[error(transparent)]
    Stream(#[from] StreamError),
}

/// Whether a published task is new in its queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Published {
    /// The task is in its queue.
    Queued,
    /// This attempt was published before, within the duplicate window; it is not queued again.
    Duplicate,
}

/// Makes the id by which the server recognises a repeated publish: `<chunk>.<number of the attempt>`.
pub fn message_id(chunk: ChunkId, attempt: Attempt) -> String {
    format!("{chunk}.{}", attempt.number)
}

/// Reads the attempt from a message id, for a task whose payload cannot be decoded. The id has no epoch, so
/// that is 0.
pub fn attempt_of(message_id: &str) -> Option<Attempt> {
    let number = message_id.rsplit_once('.')?.1.parse().ok()?;
    Some(Attempt { epoch: 0, number })
}

/// Handle to the stream of tasks. It keeps the queues that it has created, so that each is created once.
#[derive(Debug)]
pub struct TaskStream {
    connection: Connection,
    topology: Topology,
    queues: Mutex<BTreeSet<Queue>>,
}

impl TaskStream {
    /// Uses the stream over `connection`; queues are created with the settings of `topology`.
    pub fn new(connection: &Connection, topology: Topology) -> Self {
        Self {
            connection: connection.clone(),
            topology,
            queues: Mutex::new(BTreeSet::new()),
        }
    }

    /// Publishes one task and notifies idle workers. Its queue is created if it does not exist.
    pub async fn publish(&self, queue: Queue, task: &Task) -> Result<Published, TaskError> {
        let published = self.publish_all(queue, std::slice::from_ref(task)).await?;
        Ok(published.first().copied().unwrap_or(Published::Duplicate))
    }

    /// Publishes tasks to one queue, in no particular order. After an error some of them may have been
    /// published.
    pub async fn publish_all(&self, queue: Queue, tasks: &[Task]) -> Result<Vec<Published>, TaskError> {
        self.ensure_queue(queue).await?;
        // Made outside the stream: a closure over references would not be `Send` for every lifetime.
        let publishes: Vec<_> = tasks.iter().map(|task| self.publish_one(queue, task)).collect();
        let answers = futures::stream::iter(publishes)
            .buffered(IN_FLIGHT)
            .try_collect::<Vec<_>>()
            .await?;
        let wake = Subject::Wake(queue.lane.class).to_string();
        let notified = self
            .connection
            .client
            .publish(wake, Bytes::from(queue.to_string()))
            .await;
        if let Err(error) = notified {
            tracing::debug!(%error, "cannot notify idle workers, which look for tasks every few seconds");
        }
        Ok(answers)
    }

    async fn ensure_queue(&self, queue: Queue) -> Result<(), StreamError> {
        let mut queues = self.queues.lock().await;
        if !queues.contains(&queue) {
            topology::ensure_queue(&self.connection.context, &self.topology, queue).await?;
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
        let mut retry = Retry::new(RETRY, TRIES);
        loop {
            match self.connection.publish(subject.clone(), message.clone()).await {
                // After a failed try the duplicate may be our own.
                Ok(ack) if ack.duplicate && retry.is_first() => return Ok(Published::Duplicate),
                Ok(_) => return Ok(Published::Queued),
                Err(error) => {
                    let error = StreamError::new(format!("publish the task of {chunk}"), error);
                    // A moment later it would be as full.
                    if storage::is_full(&error) {
                        return Err(error.into());
                    }
                    retry.after(error).await?;
                }
            }
        }
    }

    /// Lists the queued and the running tasks of a job, in the order of their chunks.
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
            Ok::<_, async_nats::Error>(tasks)
        };
        let listed = list.await;
        let mut tasks =
            listed.map_err(|cause| StreamError::new(format!("list the tasks of job {job}"), cause))?;
        tasks.sort_by_key(|(_, chunk)| *chunk);
        Ok(tasks)
    }

    /// Removes every task of a job, running ones included. Returns their number.
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
        let purged = purge.await;
        purged.map_err(|cause| StreamError::new(format!("remove the tasks under `{filter}`"), cause).into())
    }
}
