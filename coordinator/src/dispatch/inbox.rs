//! Everything that reaches the dispatcher from the farm, on one queue.

use std::collections::BTreeMap;

use futures::StreamExt as _;
use latentfarm_common::error::one_line;
use latentfarm_common::ids::{ChunkId, JobId};
use latentfarm_common::nats::Connection;
use latentfarm_common::nats::events::{Followed, Follower, Start};
use latentfarm_common::nats::subjects::{ALL_HEARTBEATS, Subject};
use latentfarm_common::wire::outcome::{DoneRecord, Event, Heartbeat};
use latentfarm_common::wire::{self, WireError};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::error::DispatchError;

/// Messages that may wait for the dispatcher; heartbeats past that are held back in the client.
const CAPACITY: usize = 1024;

/// One message from the farm.
#[derive(Debug)]
pub(super) enum Input {
    Done {
        chunk: ChunkId,
        sequence: u64,
        record: Result<DoneRecord, WireError>,
    },
    Event(Event),
    Heartbeat(Heartbeat),
}

/// Listens until it is dropped.
pub(super) struct Inbox {
    pub(super) inputs: mpsc::Receiver<Input>,
    sender: mpsc::Sender<Input>,
    /// The heartbeats of all workers.
    _heartbeats: JoinSet<()>,
    /// Each job's events and done records.
    jobs: BTreeMap<JobId, JoinSet<()>>,
}

impl Inbox {
    /// Listens to heartbeats.
    pub(super) async fn open(connection: &Connection) -> Result<Self, DispatchError> {
        let (sender, inputs) = mpsc::channel(CAPACITY);
        let heartbeats = connection.client.subscribe(ALL_HEARTBEATS).await;
        let mut heartbeats = heartbeats.map_err(DispatchError::at("follow the workers' heartbeats"))?;
        let mut listeners = JoinSet::new();
        let beats = sender.clone();
        listeners.spawn(async move {
            while let Some(message) = heartbeats.next().await {
                match wire::decode(&message.payload) {
                    Ok(heartbeat) => {
                        if beats.send(Input::Heartbeat(heartbeat)).await.is_err() {
                            break;
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
            inputs,
            sender,
            _heartbeats: listeners,
            jobs: BTreeMap::new(),
        })
    }

    /// Listens to a job's done records from `first_done` on, and to its new events.
    pub(super) async fn follow(
        &mut self,
        connection: &Connection,
        job: JobId,
        first_done: u64,
    ) -> Result<(), DispatchError> {
        let events = Follower::events(connection, Some(job), Start::New).await;
        let events = events.map_err(DispatchError::at("follow the farm"))?;
        let done = Follower::done(connection, Some(job), Start::At(first_done)).await;
        let done = done.map_err(DispatchError::at("follow the farm"))?;
        let listeners = self.jobs.entry(job).or_default();
        listeners.spawn(forward(events, self.sender.clone(), read_event));
        listeners.spawn(forward(done, self.sender.clone(), read_done));
        Ok(())
    }

    /// Listens to a job no more.
    pub(super) fn unfollow(&mut self, job: JobId) {
        self.jobs.remove(&job);
    }
}

async fn forward(mut follower: Follower, sender: mpsc::Sender<Input>, read: fn(&Followed) -> Option<Input>) {
    loop {
        let message = follower.next().await;
        if let Some(input) = read(&message)
            && sender.send(input).await.is_err()
        {
            break;
        }
    }
}

fn read_done(followed: &Followed) -> Option<Input> {
    let Some(Subject::Done(chunk)) = followed.subject else {
        return None;
    };
    Some(Input::Done {
        chunk,
        sequence: followed.sequence,
        record: wire::decode(&followed.payload),
    })
}

fn read_event(followed: &Followed) -> Option<Input> {
    match wire::decode(&followed.payload) {
        Ok(event) => Some(Input::Event(event)),
        Err(error) => {
            let error = one_line(&error);
            tracing::warn!(sequence = followed.sequence, error, "an event cannot be read");
            None
        }
    }
}
