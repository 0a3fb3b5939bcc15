//! Events and other stored messages as they arrive: workers publish events, the coordinator follows streams.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::time::Duration;

use async_nats::jetstream::message::PublishMessage;
use async_nats::{HeaderMap, Subscriber};
use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _};

use super::connect::Connection;
use super::direct::DirectReader;
use super::error::StreamError;
use super::subjects::{self, Subject};
use super::topology;
use crate::backoff::{Backoff, Retry, RetryLimit};
use crate::ids::JobId;
use crate::wire;
use crate::wire::outcome::Event;

const RETRY: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));

/// Longest wait between two reads of a followed stream.
const READ_EVERY: Duration = Duration::from_secs(1);
/// Waits between the reads after a notification, which may arrive before its message can be read.
const AFTER_NOTIFICATION: [Duration; 4] = [
    Duration::from_millis(1),
    Duration::from_millis(5),
    Duration::from_millis(25),
    Duration::from_millis(100),
];

/// Publishes an event and waits until it is stored. Failures are retried for up to `limit`.
pub async fn publish(connection: &Connection, event: &Event, limit: Duration) -> Result<(), StreamError> {
    let subject = Subject::event(&event.worker, event.chunk.job, &event.kind).to_string();
    let failed =
        |cause: async_nats::Error| StreamError::new(format!("publish an event on `{subject}`"), cause);
    let payload = wire::encode(event).map_err(|error| failed(error.into()))?;
    // By this id the server recognises a repeat of this very call; two equal events have two ids.
    let id = format!(
        "{}.{}.{:016x}",
        event.chunk,
        event.attempt.number,
        RandomState::new().build_hasher().finish()
    );
    let message = PublishMessage::build().payload(payload.into()).message_id(id);
    let mut retry = Retry::new(RETRY, RetryLimit::For(limit));
    loop {
        match connection.publish(subject.clone(), message.clone()).await {
            Ok(_) => return Ok(()),
            // The connection reports the outage.
            Err(error) if !connection.is_up() => {
                let back = tokio::time::timeout(limit, connection.up()).await;
                back.map_err(|_elapsed| failed(error.into()))?;
            }
            Err(error) => retry.after(failed(error.into())).await?,
        }
    }
}

/// The message with which following begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartFrom {
    /// Following begins with the oldest stored message.
    Oldest,
    /// Following begins with this sequence, or the next one that is stored.
    Sequence(u64),
    /// Following begins with the first message that is stored from now on.
    New,
}

/// One message of a followed stream.
#[derive(Clone, Debug)]
pub struct FollowedMessage {
    /// The parsed subject, or `None` if it is not one of the farm's.
    pub subject: Option<Subject>,
    /// The message's sequence in the stream.
    pub sequence: u64,
    /// The content in its envelope, as [`wire`] describes it.
    pub payload: Bytes,
    /// The message's headers; empty if it has none.
    pub headers: HeaderMap,
}

/// The messages of one stream, in order, without gaps, across reconnects and server restarts.
///
/// They are read by direct gets. A plain subscription to the same subjects notifies of new ones, and a read
/// every second makes up for a notification that was lost. (The library's ordered consumer replays everything
/// if it has to start again before its first message, and takes half a minute to notice that it has to.)
#[derive(Debug)]
pub struct Follower {
    connection: Connection,
    reader: DirectReader,
    notifications: Subscriber,
    filter: String,
}

impl Follower {
    /// Follows the done records of one job, or of all jobs if `job` is `None`.
    pub async fn done(
        connection: &Connection,
        job: Option<JobId>,
        start: StartFrom,
    ) -> Result<Self, StreamError> {
        let filter = job.map_or_else(|| subjects::ALL_DONE.to_owned(), subjects::done_of_job);
        Self::open(connection, topology::DONE, filter, start).await
    }

    /// Follows the events of one job, or of all jobs if `job` is `None`.
    pub async fn events(
        connection: &Connection,
        job: Option<JobId>,
        start: StartFrom,
    ) -> Result<Self, StreamError> {
        let filter = job.map_or_else(|| subjects::ALL_EVENTS.to_owned(), subjects::events_of_job);
        Self::open(connection, topology::EVENTS, filter, start).await
    }

    /// Follows the records of the segments of a job's source video, from the first one on.
    pub async fn segments(connection: &Connection, job: JobId) -> Result<Self, StreamError> {
        let filter = subjects::values(topology::JOBS_BUCKET, &subjects::segments_of_job(job));
        Self::open(connection, topology::JOBS_STREAM, filter, StartFrom::Oldest).await
    }

    async fn open(
        connection: &Connection,
        stream: &'static str,
        filter: String,
        start: StartFrom,
    ) -> Result<Self, StreamError> {
        let failed = |cause: async_nats::Error| {
            StreamError::new(format!("follow `{filter}` of stream {stream}"), cause)
        };
        let subscribed = connection.client.subscribe(filter.clone()).await;
        let notifications = subscribed.map_err(|error| failed(error.into()))?;
        let first = match start {
            StartFrom::Oldest => 1,
            StartFrom::Sequence(sequence) => sequence,
            StartFrom::New => {
                let info = connection.context.get_stream(stream).await;
                info.map_err(|error| failed(error.into()))?
                    .cached_info()
                    .state
                    .last_sequence
                    + 1
            }
        };
        Ok(Self {
            connection: connection.clone(),
            reader: DirectReader::new(&connection.client, stream, &filter, first),
            notifications,
            filter,
        })
    }

    /// Waits for the next message. Errors of the link are logged, and following goes on. Safe to drop and
    /// call again.
    pub async fn next(&mut self) -> FollowedMessage {
        let mut waits = AFTER_NOTIFICATION[..0].iter();
        loop {
            if self.was_notified() {
                waits = AFTER_NOTIFICATION.iter();
            }
            // What was asked during an outage may never be answered.
            let Some(read) = self.connection.unless_reconnected(self.reader.next()).await else {
                continue;
            };
            match read {
                Ok(Some(message)) => {
                    return FollowedMessage {
                        subject: message.subject.as_str().parse().ok(),
                        sequence: message.sequence,
                        payload: message.payload,
                        headers: message.headers,
                    };
                }
                Ok(None) => {}
                // The outage itself is reported by the connection.
                Err(_) if !self.connection.is_up() => self.connection.up().await,
                Err(error) => {
                    let error = crate::error::one_line(&error);
                    tracing::warn!(
                        filter = self.filter,
                        error,
                        "cannot read a followed stream, reading again"
                    );
                    tokio::time::sleep(READ_EVERY).await;
                }
            }
            if let Some(wait) = waits.next() {
                tokio::time::sleep(*wait).await;
                continue;
            }
            match tokio::time::timeout(READ_EVERY, self.notifications.next()).await {
                Ok(Some(_)) => waits = AFTER_NOTIFICATION.iter(),
                // The client is closing: no notification follows.
                Ok(None) => tokio::time::sleep(READ_EVERY).await,
                Err(_) => {}
            }
        }
    }

    /// Takes all notifications that have arrived; returns whether there was one.
    fn was_notified(&mut self) -> bool {
        let mut notified = false;
        while let Some(Some(_)) = self.notifications.next().now_or_never() {
            notified = true;
        }
        notified
    }
}
