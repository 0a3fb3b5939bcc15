//! Events and other stored messages as they come: publishing by workers, following by the coordinator.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::time::Duration;

use async_nats::Subscriber;
use async_nats::jetstream;
use async_nats::jetstream::message::PublishMessage;
use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _};
use tokio::time::Instant;

use super::connect::Connection;
use super::direct::DirectReader;
use super::subjects::{self, Subject};
use super::topology;
use crate::backoff::Backoff;
use crate::ids::JobId;
use crate::wire::outcome::Event;
use crate::wire::{self, WireError};

const RETRY: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));

/// Longest wait between two looks into a followed stream.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The doorbell may ring before the message can be read: waits between the looks after it.
const AFTER_RING: [Duration; 4] = [
    Duration::from_millis(1),
    Duration::from_millis(5),
    Duration::from_millis(25),
    Duration::from_millis(100),
];

/// Why an event could not be published, or a stream not be followed.
#[derive(Debug, thiserror::Error)]
pub enum EventError {
    #[error("cannot encode an event")]
    Encode(#[source] WireError),
    #[error("no acknowledgement for an event on `{subject}`")]
    Publish {
        subject: String,
        #[source]
        source: jetstream::context::PublishError,
    },
    #[error("cannot follow `{filter}` of stream {stream}")]
    Follow {
        stream: &'static str,
        filter: String,
        #[source]
        source: async_nats::Error,
    },
}

/// Publishes an event and waits until it is stored; tries again for up to `limit`.
pub async fn publish(connection: &Connection, event: &Event, limit: Duration) -> Result<(), EventError> {
    let subject = Subject::event(&event.worker, event.chunk.job, &event.kind).to_string();
    let payload = Bytes::from(wire::encode(event).map_err(EventError::Encode)?);
    // Lets the server drop a repeat of this very call; two equal events are two.
    let id = format!(
        "{}.{}.{:016x}",
        event.chunk,
        event.attempt.number,
        RandomState::new().build_hasher().finish()
    );
    let deadline = Instant::now() + limit;
    let mut backoff = RETRY;
    loop {
        let message = PublishMessage::build().payload(payload.clone()).message_id(&id);
        let Err(source) = connection.publish(subject.clone(), message).await else {
            return Ok(());
        };
        let delay = backoff.next_delay();
        if Instant::now() + delay >= deadline {
            return Err(EventError::Publish { subject, source });
        }
        tracing::warn!(subject, error = %source, ?delay, "an event was not stored yet, trying again");
        tokio::time::sleep(delay).await;
    }
}

/// Where following begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With the oldest stored message.
    Oldest,
    /// With this sequence.
    At(u64),
    /// With what comes from now on.
    New,
}

/// One message of a followed stream.
#[derive(Clone, Debug)]
pub struct Followed {
    /// The parsed subject; `None` for a stream whose subjects are not the farm's.
    pub subject: Option<Subject>,
    pub sequence: u64,
    pub payload: Bytes,
}

/// Messages of one stream, in order, without gaps, across reconnects and server restarts.
///
/// Reads by direct gets. A plain subscription to the same subjects is the doorbell, and a look every second
/// makes up for a doorbell that was lost. (The library's ordered consumer replays everything when it has to
/// start again before its first message, and takes half a minute to notice that it has to.)
#[derive(Debug)]
pub struct Follower {
    reader: DirectReader,
    doorbell: Subscriber,
    filter: String,
}

impl Follower {
    /// Follows done records; of one job, or of all.
    pub async fn done(connection: &Connection, job: Option<JobId>, start: Start) -> Result<Self, EventError> {
        let filter = job.map_or_else(|| subjects::ALL_DONE.to_owned(), subjects::done_of_job);
        Self::open(connection, topology::DONE, filter, start).await
    }

    /// Follows events; of one job, or of all.
    pub async fn events(
        connection: &Connection,
        job: Option<JobId>,
        start: Start,
    ) -> Result<Self, EventError> {
        let filter = job.map_or_else(|| subjects::ALL_EVENTS.to_owned(), subjects::events_of_job);
        Self::open(connection, topology::EVENTS, filter, start).await
    }

    async fn open(
        connection: &Connection,
        stream: &'static str,
        filter: String,
        start: Start,
    ) -> Result<Self, EventError> {
        let failed = |source: async_nats::Error| EventError::Follow {
            stream,
            filter: filter.clone(),
            source,
        };
        let subscribed = connection.client.subscribe(filter.clone()).await;
        let doorbell = subscribed.map_err(|error| failed(error.into()))?;
        let first = match start {
            Start::Oldest => 1,
            Start::At(sequence) => sequence,
            Start::New => {
                let info = connection.context.get_stream(stream).await;
                info.map_err(|error| failed(error.into()))?
                    .cached_info()
                    .state
                    .last_sequence
                    + 1
            }
        };
        Ok(Self {
            reader: DirectReader::new(&connection.client, stream, &filter, first),
            doorbell,
            filter,
        })
    }

    /// The next message; waits for it. Errors of the link are logged and overcome. Safe to drop and call again.
    pub async fn next(&mut self) -> Followed {
        let mut looks = AFTER_RING[..0].iter();
        loop {
            if self.rang() {
                looks = AFTER_RING.iter();
            }
            match self.reader.next().await {
                Ok(Some(message)) => {
                    return Followed {
                        subject: message.subject.as_str().parse().ok(),
                        sequence: message.sequence,
                        payload: message.payload,
                    };
                }
                Ok(None) => {}
                Err(error) => {
                    let error = crate::error::one_line(&error);
                    tracing::warn!(filter = self.filter, error, "following goes on after an error");
                    tokio::time::sleep(LOOK_EVERY).await;
                }
            }
            if let Some(wait) = looks.next() {
                tokio::time::sleep(*wait).await;
                continue;
            }
            match tokio::time::timeout(LOOK_EVERY, self.doorbell.next()).await {
                Ok(Some(_)) => looks = AFTER_RING.iter(),
                // The client is closing: nobody rings any more.
                Ok(None) => tokio::time::sleep(LOOK_EVERY).await,
                Err(_) => {}
            }
        }
    }

    /// Empties the doorbell; true if it rang.
    fn rang(&mut self) -> bool {
        let mut rang = false;
        while let Some(Some(_)) = self.doorbell.next().now_or_never() {
            rang = true;
        }
        rang
    }
}
