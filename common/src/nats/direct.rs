//! Reading stored messages in batches with direct gets: no consumer, so no right to create one is needed.
//!
//! The server answers one request with up to `batch` messages, each with its sequence and the number still to
//! come, and an end marker (204). Messages lost on the way are asked for again.

use std::collections::VecDeque;
use std::time::Duration;

use async_nats::jetstream::message::StreamMessage;
use async_nats::{Client, StatusCode, Subscriber};
use bytes::Bytes;
use futures::StreamExt as _;
use tokio::time::timeout;

/// Messages asked for at a time.
const BATCH: usize = 32;
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
const TRIES: u32 = 4;
const END_OF_BATCH: u16 = 204;

/// Why stored messages could not be read.
#[derive(Debug, thiserror::Error)]
pub enum DirectError {
    #[error("cannot ask stream {stream} for `{subject}`")]
    Ask {
        stream: String,
        subject: String,
        #[source]
        source: async_nats::Error,
    },
    #[error("stream {stream} did not answer for `{subject}` in {TRIES} tries")]
    NoAnswer { stream: String, subject: String },
    #[error("stream {stream} refused to read `{subject}`: {status} {reason}")]
    Refused {
        stream: String,
        subject: String,
        status: StatusCode,
        reason: String,
    },
    #[error("stream {stream} sent a message without its sequence")]
    Malformed {
        stream: String,
        #[source]
        source: async_nats::jetstream::message::StreamMessageError,
    },
}

/// Reads the messages under a subject filter, in order of their sequence.
#[derive(Debug)]
pub struct DirectReader {
    client: Client,
    stream: String,
    subject: String,
    next_sequence: u64,
    ready: VecDeque<StreamMessage>,
}

/// How a batch ended.
enum BatchEnd {
    /// There may be more.
    Marker,
    /// Nothing is stored past what was read.
    Exhausted,
    /// No answer in time.
    Silence,
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

    /// The next message, or `None` where none is stored yet; calling it again looks again.
    pub async fn next(&mut self) -> Result<Option<StreamMessage>, DirectError> {
        for _ in 0..TRIES {
            if let Some(message) = self.ready.pop_front() {
                return Ok(Some(message));
            }
            match self.fill().await? {
                BatchEnd::Exhausted => return Ok(self.ready.pop_front()),
                BatchEnd::Marker | BatchEnd::Silence => {}
            }
        }
        self.ready
            .pop_front()
            .map(Some)
            .ok_or_else(|| DirectError::NoAnswer {
                stream: self.stream.clone(),
                subject: self.subject.clone(),
            })
    }

    /// Asks for one batch.
    async fn fill(&mut self) -> Result<BatchEnd, DirectError> {
        let mut inbox = self.ask().await?;
        loop {
            let Ok(Some(message)) = timeout(ANSWER_LIMIT, inbox.next()).await else {
                tracing::warn!(
                    stream = self.stream,
                    subject = self.subject,
                    sequence = self.next_sequence,
                    "a batch read was cut short, asking again"
                );
                return Ok(BatchEnd::Silence);
            };
            match message.status {
                None => {}
                Some(StatusCode::NOT_FOUND) => return Ok(BatchEnd::Exhausted),
                Some(status) if status.as_u16() == END_OF_BATCH => return Ok(BatchEnd::Marker),
                Some(status) => {
                    return Err(DirectError::Refused {
                        stream: self.stream.clone(),
                        subject: self.subject.clone(),
                        status,
                        reason: message.description.unwrap_or_default(),
                    });
                }
            }
            let message = StreamMessage::try_from(message).map_err(|source| DirectError::Malformed {
                stream: self.stream.clone(),
                source,
            })?;
            if message.sequence >= self.next_sequence {
                self.next_sequence = message.sequence + 1;
                self.ready.push_back(message);
            }
        }
    }

    async fn ask(&self) -> Result<Subscriber, DirectError> {
        let failed = |source: async_nats::Error| DirectError::Ask {
            stream: self.stream.clone(),
            subject: self.subject.clone(),
            source,
        };
        let inbox = self.client.new_inbox();
        let subscriber = self
            .client
            .subscribe(inbox.clone())
            .await
            .map_err(|error| failed(error.into()))?;
        let request = serde_json::json!({
            "batch": BATCH,
            "seq": self.next_sequence,
            "next_by_subj": self.subject,
        });
        let sent = self
            .client
            .publish_with_reply(
                format!("$JS.API.DIRECT.GET.{}", self.stream),
                inbox,
                Bytes::from(request.to_string()),
            )
            .await;
        sent.map_err(|error| failed(error.into()))?;
        Ok(subscriber)
    }
}

/// The last message under an exact subject, if any.
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
