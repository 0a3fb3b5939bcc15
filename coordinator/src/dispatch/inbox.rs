//! Merges everything that reaches the dispatcher into one channel: heartbeats, events and done records from
//! the farm, and the segments of source videos.

use std::collections::{BTreeMap, BTreeSet};

use futures::StreamExt as _;
use latentfarm_common::error::one_line;
use latentfarm_common::ids::JobId;
use latentfarm_common::nats::done::DoneEntry;
use latentfarm_common::nats::events::{FollowedMessage, Follower, StartFrom};
use latentfarm_common::nats::heartbeats::ReadError;
use latentfarm_common::nats::signature::PublicKey;
use latentfarm_common::nats::subjects::{ALL_HEARTBEATS, Subject};
use latentfarm_common::nats::{Connection, heartbeats};
use latentfarm_common::wire::outcome::{Event, Heartbeat};
use latentfarm_common::wire::{self, SCHEMA, WireError};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::error::DispatchError;
use crate::job::segments::VideoNews;

/// The number of messages that may wait for the dispatcher; further ones stay in the client's buffers.
const CAPACITY: usize = 1024;

/// One message to the dispatcher.
#[derive(Debug)]
pub(super) enum FarmMessage {
    Done(DoneEntry),
    Event(Event),
    Heartbeat {
        heartbeat: Heartbeat,
        /// The key with which the worker signs its records, if it has one.
        key: Option<PublicKey>,
    },
    /// What a job learns about its source video. It comes from the task that cuts it, in order.
    Video {
        job: JobId,
        news: VideoNews,
    },
}

/// The tasks that receive messages from the farm. They end when the inbox is dropped.
pub(super) struct Inbox {
    pub(super) messages: mpsc::Receiver<FarmMessage>,
    sender: mpsc::Sender<FarmMessage>,
    /// The heartbeats of all workers.
    _heartbeats: JoinSet<()>,
    /// Each job's events and done records.
    jobs: BTreeMap<JobId, JoinSet<()>>,
}

impl Inbox {
    /// Subscribes to the heartbeats of all workers.
    pub(super) async fn open(connection: &Connection) -> Result<Self, DispatchError> {
        let (sender, messages) = mpsc::channel(CAPACITY);
        let subscribed = connection.client.subscribe(ALL_HEARTBEATS).await;
        let mut incoming = subscribed.map_err(DispatchError::at("follow the workers' heartbeats"))?;
        let mut listeners = JoinSet::new();
        let beats = sender.clone();
        listeners.spawn(async move {
            let mut strangers = BTreeSet::new();
            while let Some(message) = incoming.next().await {
                match heartbeats::read(&message) {
                    Ok((heartbeat, key)) => {
                        let message = FarmMessage::Heartbeat { heartbeat, key };
                        if beats.send(message).await.is_err() {
                            break;
                        }
                    }
                    // It is said once: the next coordinator says it again.
                    Err(ReadError::Decode(WireError::UnknownSchema { found })) => {
                        if strangers.insert((message.subject.clone(), found)) {
                            let name = message.subject.rsplit('.').next().unwrap_or_default();
                            tracing::warn!(
                                worker = name,
                                "worker {name} speaks wire schema {found}, this coordinator {SCHEMA}: it counts for no task \
                                 until it is updated"
                            );
                        }
                    }
                    Err(error) => tracing::warn!(
                        subject = message.subject.as_str(),
                        error = one_line(&error),
                        "a heartbeat cannot be read"
                    ),
                }
            }
        });
        Ok(Self {
            messages,
            sender,
            _heartbeats: listeners,
            jobs: BTreeMap::new(),
        })
    }

    /// Follows a job's done records from the sequence number `first_done` on, and its new events.
    pub(super) async fn follow(
        &mut self,
        connection: &Connection,
        job: JobId,
        first_done: u64,
    ) -> Result<(), DispatchError> {
        let events = Follower::events(connection, Some(job), StartFrom::New).await;
        let events = events.map_err(DispatchError::at("follow the farm"))?;
        let done = Follower::done(connection, Some(job), StartFrom::Sequence(first_done)).await;
        let done = done.map_err(DispatchError::at("follow the farm"))?;
        let listeners = self.jobs.entry(job).or_default();
        listeners.spawn(forward(events, self.sender.clone(), read_event));
        listeners.spawn(forward(done, self.sender.clone(), read_done));
        Ok(())
    }

    /// Follows the cut of a job's source video.
    pub(super) fn follow_video(&mut self, job: JobId, mut video: mpsc::UnboundedReceiver<VideoNews>) {
        let sender = self.sender.clone();
        self.jobs.entry(job).or_default().spawn(async move {
            while let Some(news) = video.recv().await {
                if sender.send(FarmMessage::Video { job, news }).await.is_err() {
                    break;
                }
            }
        });
    }

    /// Stops following a job that has ended.
    pub(super) fn unfollow(&mut self, job: JobId) {
        self.jobs.remove(&job);
    }
}

async fn forward(
    mut follower: Follower,
    sender: mpsc::Sender<FarmMessage>,
    read: fn(&FollowedMessage) -> Option<FarmMessage>,
) {
    loop {
        let message = follower.next().await;
        if let Some(message) = read(&message)
            && sender.send(message).await.is_err()
        {
            break;
        }
    }
}

fn read_done(message: &FollowedMessage) -> Option<FarmMessage> {
    DoneEntry::of_followed(message).map(FarmMessage::Done)
}

fn read_event(message: &FollowedMessage) -> Option<FarmMessage> {
    match wire::decode::<Event>(&message.payload) {
        // The server's permissions tie the subject to the worker's key, and nothing else of the message.
        Ok(event) => match &message.subject {
            Some(Subject::Event { worker, job, .. })
                if *worker == event.worker && *job == event.chunk.job =>
            {
                Some(FarmMessage::Event(event))
            }
            Some(_) | None => {
                let (sequence, worker) = (message.sequence, event.worker);
                tracing::warn!(sequence, %worker, "an event names another worker or job than its subject");
                None
            }
        },
        Err(error) => {
            let error = one_line(&error);
            tracing::warn!(sequence = message.sequence, error, "an event cannot be read");
            None
        }
    }
}
