//! The tasks that receive the messages of a farm from its server and pass them to the dispatcher. The link to the server
//! ([`NatsLink`](super::nats_link)) starts them; they end when they are dropped.

use std::collections::BTreeSet;

use futures::StreamExt as _;
use latentfarm_common::error::one_line;
use latentfarm_common::ids::JobId;
use latentfarm_common::nats::done::DoneEntry;
use latentfarm_common::nats::events::{FollowedMessage, Follower, StartFrom};
use latentfarm_common::nats::heartbeats::ReadError;
use latentfarm_common::nats::subjects::{ALL_HEARTBEATS, Subject};
use latentfarm_common::nats::{Connection, heartbeats};
use latentfarm_common::wire::outcome::Event;
use latentfarm_common::wire::{self, SCHEMA, WireError};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::error::DispatchError;
use super::farm_message::FarmMessage;

/// Follows the heartbeats of all workers.
pub(super) async fn of_workers(
    connection: &Connection,
    to: mpsc::Sender<FarmMessage>,
) -> Result<JoinSet<()>, DispatchError> {
    let subscribed = connection.client.subscribe(ALL_HEARTBEATS).await;
    let mut incoming = subscribed.map_err(DispatchError::at("follow the workers' heartbeats"))?;
    let mut listeners = JoinSet::new();
    listeners.spawn(async move {
        let mut strangers = BTreeSet::new();
        while let Some(message) = incoming.next().await {
            match heartbeats::read(&message) {
                Ok((heartbeat, key)) => {
                    let message = FarmMessage::Heartbeat { heartbeat, key };
                    if to.send(message).await.is_err() {
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
    Ok(listeners)
}

/// Follows a job's done records from the sequence number `first_done` on, and its new events.
pub(super) async fn of_job(
    connection: &Connection,
    job: JobId,
    first_done: u64,
    to: mpsc::Sender<FarmMessage>,
) -> Result<JoinSet<()>, DispatchError> {
    let events = Follower::events(connection, Some(job), StartFrom::New).await;
    let events = events.map_err(DispatchError::at("follow the farm"))?;
    let done = Follower::done(connection, Some(job), StartFrom::Sequence(first_done)).await;
    let done = done.map_err(DispatchError::at("follow the farm"))?;
    let mut listeners = JoinSet::new();
    listeners.spawn(forward(events, to.clone(), read_event));
    listeners.spawn(forward(done, to, read_done));
    Ok(listeners)
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
