//! The done log has one record for each finished chunk, which is written by compare-and-set. It is the truth
//! about what is finished. Workers commit to it; the coordinator reads it, verifies what it names, and
//! retracts what does not hold. A record is signed with the key of the connection that wrote it, see
//! [`signature`](super::signature).

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream;
use async_nats::jetstream::message::{PublishMessage, StreamMessage};

use super::connect::Connection;
use super::direct::{DirectReader, last_of};
use super::error::StreamError;
use super::events::FollowedMessage;
use super::signature::Signature;
use super::subjects::{self, Subject};
use super::topology;
use crate::backoff::{Backoff, Retry, RetryLimit};
use crate::ids::{ChunkId, JobId};
use crate::wire::outcome::DoneRecord;
use crate::wire::{self, WireError};

/// Limit of the tries of a commit. It covers a restart of the server.
const COMMIT_LIMIT: RetryLimit = RetryLimit::For(Duration::from_mins(1));
const RETRY: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));

/// A record that is stored in the log.
#[derive(Debug)]
pub struct DoneEntry {
    /// The chunk that the record makes done.
    pub chunk: ChunkId,
    /// The record's sequence in the log; [`DoneLog::retract`] names it by this.
    pub sequence: u64,
    /// The record, or the error of one that cannot be decoded; that one does not count and has to be
    /// retracted.
    pub record: Result<DoneRecord, WireError>,
    /// Whose key signed the record, if any did.
    pub signature: Signature,
}

impl DoneEntry {
    fn new(chunk: ChunkId, message: &StreamMessage) -> Self {
        Self {
            chunk,
            sequence: message.sequence,
            record: wire::decode(&message.payload),
            signature: Signature::of(&message.subject, &message.payload, &message.headers),
        }
    }

    /// Reads a message of the followed done log; `None` if its subject is not one of the log's.
    pub fn of_followed(message: &FollowedMessage) -> Option<Self> {
        let Some(Subject::Done(chunk)) = message.subject else {
            return None;
        };
        // A subject has one text form, which is the one that was signed.
        let subject = Subject::Done(chunk).to_string();
        Some(Self {
            chunk,
            sequence: message.sequence,
            record: wire::decode(&message.payload),
            signature: Signature::of(&subject, &message.payload, &message.headers),
        })
    }
}

/// Whether a committed record became its chunk's result.
#[derive(Debug)]
pub enum CommitOutcome {
    /// The committed record is the chunk's result.
    Won {
        /// The record's sequence in the log.
        sequence: u64,
    },
    /// Another record was first and stays.
    Lost(Box<DoneEntry>),
}

/// A handle to the done log. Clones share the connection.
#[derive(Clone, Debug)]
pub struct DoneLog {
    connection: Connection,
}

impl DoneLog {
    /// Uses the log over `connection`.
    pub fn new(connection: &Connection) -> Self {
        Self {
            connection: connection.clone(),
        }
    }

    /// Makes `record` its chunk's result, unless there is one, signed with the connection's key if it has one. Waits
    /// while the link is down, tries for up to a minute while the server does not answer, and finds out whether a try without an answer was stored.
    pub async fn commit(&self, record: &DoneRecord) -> Result<CommitOutcome, StreamError> {
        let chunk = record.chunk;
        let failed =
            |cause: async_nats::Error| StreamError::new(format!("commit {chunk} to the done log"), cause);
        let subject = Subject::Done(chunk).to_string();
        let payload = wire::encode(record).map_err(|error| failed(error.into()))?;
        let (signature, headers) = match self.connection.signer() {
            Some(signer) => {
                let headers = signer.sign(&subject, &payload);
                let headers = headers.map_err(|error| failed(error.into()))?;
                (Signature::By(signer.key().clone()), headers)
            }
            None => (Signature::Missing, HeaderMap::new()),
        };
        let message = PublishMessage::build()
            .payload(payload.into())
            .headers(headers)
            .expected_stream(topology::DONE)
            .expected_last_subject_sequence(0);
        let mut retry = Retry::new(RETRY, COMMIT_LIMIT);
        loop {
            let error = match self.connection.publish(subject.clone(), message.clone()).await {
                Ok(ack) => {
                    return Ok(CommitOutcome::Won {
                        sequence: ack.sequence,
                    });
                }
                Err(error) => error,
            };
            // The stored record is another one, or our own from a try whose answer was lost.
            match self.get(chunk).await {
                Ok(Some(entry))
                    if entry.signature == signature && entry.record.as_ref().ok() == Some(record) =>
                {
                    return Ok(CommitOutcome::Won {
                        sequence: entry.sequence,
                    });
                }
                Ok(Some(entry)) => return Ok(CommitOutcome::Lost(Box::new(entry))),
                // An outage does not count, and the connection reports it.
                Ok(None) | Err(_) if !self.connection.is_up() => {
                    self.connection.up().await;
                    retry = Retry::new(RETRY, COMMIT_LIMIT);
                }
                Ok(None) | Err(_) => retry.after(failed(error.into())).await?,
            }
        }
    }

    /// Reads the record of one chunk, if there is one.
    pub async fn get(&self, chunk: ChunkId) -> Result<Option<DoneEntry>, StreamError> {
        let subject = Subject::Done(chunk).to_string();
        let read = last_of(&self.connection.context, topology::DONE, &subject);
        let found = self.connection.unless_reconnected(read).await;
        let found = found.unwrap_or_else(|| Err("the connection was lost".into()));
        let found =
            found.map_err(|cause| StreamError::new(format!("read the done record of {chunk}"), cause))?;
        Ok(found.map(|message| DoneEntry::new(chunk, &message)))
    }

    /// Reads all records of a job, oldest first. On a cluster the newest may be missing for a moment.
    pub async fn list(&self, job: JobId) -> Result<Vec<DoneEntry>, StreamError> {
        let filter = subjects::done_of_job(job);
        let mut reader = DirectReader::new(&self.connection.client, topology::DONE, &filter, 1);
        let mut entries = Vec::new();
        while let Some(message) = reader.next().await? {
            if let Ok(Subject::Done(chunk)) = message.subject.as_str().parse() {
                entries.push(DoneEntry::new(chunk, &message));
            }
        }
        Ok(entries)
    }

    /// Removes a record, so that the chunk can be done again. Only the coordinator may do so. Returns false
    /// if that record was removed before.
    pub async fn retract(&self, chunk: ChunkId, sequence: u64) -> Result<bool, StreamError> {
        use jetstream::stream::DeleteMessageErrorKind;

        let failed = |cause: async_nats::Error| {
            StreamError::new(format!("retract done record {sequence} of {chunk}"), cause)
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
