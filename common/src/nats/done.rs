//! The done log: one record a chunk, written by compare-and-set. It is the truth about what is finished.

use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::message::PublishMessage;
use bytes::Bytes;
use tokio::time::Instant;

use super::connect::Connection;
use super::direct::{DirectError, DirectReader, last_of};
use super::subjects::{self, Subject};
use super::topology;
use crate::backoff::Backoff;
use crate::ids::{ChunkId, JobId};
use crate::wire::outcome::DoneRecord;
use crate::wire::{self, WireError};

/// Covers a server restart.
const COMMIT_LIMIT: Duration = Duration::from_mins(1);
const RETRY: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));

/// A stored record.
#[derive(Debug)]
pub struct Entry {
    pub chunk: ChunkId,
    /// Its place in the log; names it for [`DoneLog::retract`].
    pub sequence: u64,
    /// A record that cannot be read counts as none, and has to be retracted.
    pub record: Result<DoneRecord, WireError>,
}

/// Outcome of a commit.
#[derive(Debug)]
pub enum Commit {
    /// This record is the chunk's result.
    Won { sequence: u64 },
    /// Another one came first and stays.
    Lost(Box<Entry>),
}

/// Why the log could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum DoneError {
    #[error("cannot encode the done record of {chunk}")]
    Encode {
        chunk: ChunkId,
        #[source]
        source: WireError,
    },
    #[error("cannot commit {chunk} to the done log")]
    Commit {
        chunk: ChunkId,
        #[source]
        source: async_nats::Error,
    },
    #[error("cannot read the done record of {chunk}")]
    Read {
        chunk: ChunkId,
        #[source]
        source: async_nats::Error,
    },
    #[error("cannot list the done records of job {job}")]
    List {
        job: JobId,
        #[source]
        source: DirectError,
    },
    #[error("cannot retract done record {sequence} of {chunk}")]
    Retract {
        chunk: ChunkId,
        sequence: u64,
        #[source]
        source: async_nats::Error,
    },
}

/// Handle to the log. Clones share the connection.
#[derive(Clone, Debug)]
pub struct DoneLog {
    connection: Connection,
}

impl DoneLog {
    pub fn new(connection: &Connection) -> Self {
        Self {
            connection: connection.clone(),
        }
    }

    /// Makes `record` its chunk's result, unless there is one. Tries for up to a minute while the server does
    /// not answer, and finds out whether a try without an answer was stored.
    pub async fn commit(&self, record: &DoneRecord) -> Result<Commit, DoneError> {
        let chunk = record.chunk;
        let payload = wire::encode(record).map_err(|source| DoneError::Encode { chunk, source })?;
        let payload = Bytes::from(payload);
        let deadline = Instant::now() + COMMIT_LIMIT;
        let mut backoff = RETRY;
        loop {
            let source = match self.try_commit(chunk, payload.clone()).await {
                Ok(sequence) => return Ok(Commit::Won { sequence }),
                Err(source) => source,
            };
            // Another record, or our own from a try whose answer was lost.
            match self.get(chunk).await {
                Ok(Some(entry)) if entry.record.as_ref().ok() == Some(record) => {
                    return Ok(Commit::Won {
                        sequence: entry.sequence,
                    });
                }
                Ok(Some(entry)) => return Ok(Commit::Lost(Box::new(entry))),
                Ok(None) | Err(_) => {}
            }
            let delay = backoff.next_delay();
            if Instant::now() + delay >= deadline {
                return Err(DoneError::Commit {
                    chunk,
                    source: source.into(),
                });
            }
            tracing::warn!(%chunk, error = %source, ?delay, "cannot commit yet, trying again");
            tokio::time::sleep(delay).await;
        }
    }

    async fn try_commit(
        &self,
        chunk: ChunkId,
        payload: Bytes,
    ) -> Result<u64, jetstream::context::PublishError> {
        let message = PublishMessage::build()
            .payload(payload)
            .expected_stream(topology::DONE)
            .expected_last_subject_sequence(0);
        let subject = Subject::Done(chunk).to_string();
        Ok(self.connection.publish(subject, message).await?.sequence)
    }

    /// The record of one chunk.
    pub async fn get(&self, chunk: ChunkId) -> Result<Option<Entry>, DoneError> {
        let subject = Subject::Done(chunk).to_string();
        let read = last_of(&self.connection.context, topology::DONE, &subject);
        let found = self.connection.unless_reconnected(read).await;
        let found = found.unwrap_or_else(|| Err("the connection was lost".into()));
        let found = found.map_err(|source| DoneError::Read { chunk, source })?;
        Ok(found.map(|message| Entry {
            chunk,
            sequence: message.sequence,
            record: wire::decode(&message.payload),
        }))
    }

    /// All records of a job, oldest first. On a cluster it may miss the newest for a moment.
    pub async fn list(&self, job: JobId) -> Result<Vec<Entry>, DoneError> {
        let filter = subjects::done_of_job(job);
        let mut reader = DirectReader::new(&self.connection.client, topology::DONE, &filter, 1);
        let mut entries = Vec::new();
        while let Some(message) = reader
            .next()
            .await
            .map_err(|source| DoneError::List { job, source })?
        {
            if let Ok(Subject::Done(chunk)) = message.subject.as_str().parse() {
                entries.push(Entry {
                    chunk,
                    sequence: message.sequence,
                    record: wire::decode(&message.payload),
                });
            }
        }
        Ok(entries)
    }

    /// Takes a record back, so that the chunk can be done again. For the coordinator alone. False: that record
    /// was gone already.
    pub async fn retract(&self, chunk: ChunkId, sequence: u64) -> Result<bool, DoneError> {
        use jetstream::stream::DeleteMessageErrorKind;

        let failed = |source: async_nats::Error| DoneError::Retract {
            chunk,
            sequence,
            source,
        };
        let stream = self.connection.context.get_stream_no_info(topology::DONE).await;
        let stream = stream.map_err(|error| failed(error.into()))?;
        match stream.delete_message(sequence).await {
            Ok(deleted) => Ok(deleted),
            // The server has one code for every refusal: look whether the record is still there.
            Err(error) if matches!(error.kind(), DeleteMessageErrorKind::JetStream(_)) => {
                match self.get(chunk).await? {
                    Some(entry) if entry.sequence == sequence => Err(failed(error.into())),
                    _ => Ok(false),
                }
            }
            Err(error) => Err(failed(error.into())),
        }
    }
}
