//! Reads stored messages in batches by direct gets. This takes no consumer, and so no right to create one.
//! The done log, the followers of streams and the object store read through it.
//!
//! The server answers one request with up to `batch` messages, each with its sequence, and an end marker
//! (204). Messages that are lost on the way are requested again.

use std::collections::VecDeque;
use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream::message::StreamMessage;
use async_nats::{Client, StatusCode};
use futures::StreamExt as _;
use tokio::time::timeout;

use super::connect::request_many;
use super::error::StreamError;

/// Number of messages in one request.
const BATCH: usize = 32;
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
const TRIES: u32 = 4;
const END_OF_BATCH: u16 = 204;

/// Reads the messages under a subject filter, in order of their sequence.
#[derive(Debug)]
pub struct DirectReader {
    client: Client,
    stream: String,
    subject: String,
    next_sequence: u64,
    ready: VecDeque<StreamMessage>,
}

/// The way in which a batch of messages ended.
enum BatchEnd {
    /// The batch is complete, and more messages may be stored.
    Marker,
    /// Nothing is stored past what was read.
    Exhausted,
    /// The next message did not arrive in time.
    TimedOut,
}

impl DirectReader {
    /// Begins with the message `first_sequence` or the next one after it. `stream` must allow direct gets;
    /// `subject` may hold wildcards.
    pub fn new(client: &Client, stream: &str, subject: &str, first_sequence: u64) -> Self {
        Self {
            client: client.clone(),
            stream: stream.to_owned(),
            subject: subject.to_owned(),
            next_sequence: first_sequence.max(1),
            ready: VecDeque::new(),
        }
    }

    /// Returns the next message, or `None` if no further one is stored at the moment.
    pub async fn next(&mut self) -> Result<Option<StreamMessage>, StreamError> {
        for _ in 0..TRIES {
            if let Some(message) = self.ready.pop_front() {
                return Ok(Some(message));
            }
            match self.fill().await.map_err(|cause| self.failed(cause))? {
                BatchEnd::Exhausted => return Ok(self.ready.pop_front()),
                BatchEnd::Marker | BatchEnd::TimedOut => {}
            }
        }
        let message = self.ready.pop_front();
        let unanswered = || self.failed(format!("the server did not answer in {TRIES} tries").into());
        message.map(Some).ok_or_else(unanswered)
    }

    fn failed(&self, cause: async_nats::Error) -> StreamError {
        let Self { stream, subject, .. } = self;
        StreamError::new(format!("read `{subject}` from stream {stream}"), cause)
    }

    /// Requests one batch and keeps its messages.
    async fn fill(&mut self) -> Result<BatchEnd, async_nats::Error> {
        let request = serde_json::json!({
            "batch": BATCH,
            "seq": self.next_sequence,
            "next_by_subj": self.subject,
        });
        let subject = format!("$JS.API.DIRECT.GET.{}", self.stream);
        let mut answers = request_many(&self.client, subject, request.to_string()).await?;
        loop {
            let Ok(Some(message)) = timeout(ANSWER_LIMIT, answers.next()).await else {
                // The connection reports the outage.
                if self.client.connection_state() == State::Disconnected {
                    return Err("the link to the server is down".into());
                }
                tracing::warn!(
                    stream = self.stream,
                    subject = self.subject,
                    sequence = self.next_sequence,
                    "a batch of stored messages is incomplete, the rest is requested again"
                );
                return Ok(BatchEnd::TimedOut);
            };
            match message.status {
                None => {}
                Some(StatusCode::NOT_FOUND) => return Ok(BatchEnd::Exhausted),
                Some(status) if status.as_u16() == END_OF_BATCH => return Ok(BatchEnd::Marker),
                Some(status) => {
                    let reason = message.description.unwrap_or_default();
                    return Err(format!("the server refused with {status}: {reason}").into());
                }
            }
            let message = StreamMessage::try_from(message)?;
            if message.sequence >= self.next_sequence {
                self.next_sequence = message.sequence + 1;
                self.ready.push_back(message);
            }
        }
    }
}

/// Reads the last message under an exact subject, if there is one.
pub async fn last_of(
    context: &async_nats::jetstream::Context,
    stream: &str,
    subject: &str,
) -> Result<Option<StreamMessage>, async_nats::Error> {
    use async_nats::jetstream::stream::DirectGetErrorKind;

    let stream = context.get_stream_no_info(stream).await?;
    match stream.direct_get_last_for_subject(subject).await {
        Ok(message) => Ok(Some(message)),
        Err(error) if error.kind() == DirectGetErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}
