//! Pulling one task from a queue.
//!
//! Our own request rather than the library's `fetch`: that one swallows a message after an idle heartbeat,
//! does not notice a server restart, and needs the right to look up consumers. A pull for a queue that has no
//! consumer yet is answered at once with "no responders".

use std::time::Duration;

use async_nats::jetstream::{self, Message};
use async_nats::{StatusCode, Subscriber};
use bytes::Bytes;
use futures::StreamExt as _;
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

use super::connect::Connection;
use super::topology;
use crate::queues::Queue;

/// The server's answer to a pull without waiting comes within this time, or the link is bad.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// The server ends a waiting pull itself; this much later we stop believing that it will.
const EXPIRY_SLACK: Duration = Duration::from_secs(1);
/// A doorbell for another queue may cross with a task on its way to us; it has this long to arrive.
const CROSSING: Duration = Duration::from_millis(30);

/// What a pull brought.
#[derive(Debug)]
pub enum Pulled {
    Task(Box<Message>),
    /// The queue has no task.
    Empty,
    /// The queue has no consumer: nobody has published to it yet.
    NoLane,
    /// Something else is more urgent; see [`wait_for_task`].
    Interrupted,
}

/// Why a pull failed.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    #[error("cannot ask queue {queue} for a task")]
    Ask {
        queue: Queue,
        #[source]
        source: async_nats::Error,
    },
    #[error("queue {queue} did not answer within {}", humantime(*limit))]
    NoAnswer { queue: Queue, limit: Duration },
    #[error("queue {queue} refused the pull: {status} {reason}")]
    Refused {
        queue: Queue,
        status: StatusCode,
        reason: String,
    },
}

fn humantime(limit: Duration) -> String {
    format!("{} s", limit.as_secs())
}

/// Takes a task from `queue` if one waits there.
pub async fn try_pull(connection: &Connection, queue: Queue) -> Result<Pulled, PullError> {
    let mut inbox = ask(connection, queue, r#"{"batch":1,"no_wait":true}"#.to_owned()).await?;
    let Some(answer) = connection
        .unless_reconnected(timeout(ANSWER_LIMIT, inbox.next()))
        .await
    else {
        return Ok(Pulled::Interrupted);
    };
    let answer = answer.map_err(|_| PullError::NoAnswer {
        queue,
        limit: ANSWER_LIMIT,
    })?;
    interpret(connection, queue, answer)
}

/// Waits up to `expires` for a task in `queue`. Ends early as [`Pulled::Interrupted`] when the connection was
/// re-made (the server has forgotten the pull) or when `interrupt` completes. Dropping the future while a task
/// is on its way delays that task by one `ack_wait`.
pub async fn wait_for_task(
    connection: &Connection,
    queue: Queue,
    expires: Duration,
    interrupt: impl Future<Output = ()>,
) -> Result<Pulled, PullError> {
    let mut epochs: watch::Receiver<u64> = connection.epochs();
    epochs.mark_unchanged();
    let request = format!(r#"{{"batch":1,"expires":{}}}"#, expires.as_nanos());
    let mut inbox = ask(connection, queue, request).await?;
    let deadline = Instant::now() + expires + EXPIRY_SLACK;
    tokio::select! {
        answer = timeout_at(deadline, inbox.next()) => match answer {
            Ok(answer) => interpret(connection, queue, answer),
            Err(_) => Ok(Pulled::Empty),
        },
        // The connection holds the sender, so `changed` does not fail while it lives.
        _ = epochs.changed() => Ok(Pulled::Interrupted),
        () = interrupt => match timeout(CROSSING, inbox.next()).await {
            Ok(answer @ Some(_)) => interpret(connection, queue, answer),
            Ok(None) | Err(_) => Ok(Pulled::Interrupted),
        },
    }
}

async fn ask(connection: &Connection, queue: Queue, request: String) -> Result<Subscriber, PullError> {
    let failed = |source: async_nats::Error| PullError::Ask { queue, source };
    let client = &connection.client;
    let inbox = client.new_inbox();
    let subscriber = client
        .subscribe(inbox.clone())
        .await
        .map_err(|error| failed(error.into()))?;
    let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{}.{queue}", topology::TASKS);
    let sent = client
        .publish_with_reply(subject, inbox, Bytes::from(request))
        .await;
    sent.map_err(|error| failed(error.into()))?;
    Ok(subscriber)
}

fn interpret(
    connection: &Connection,
    queue: Queue,
    answer: Option<async_nats::Message>,
) -> Result<Pulled, PullError> {
    // The subscription ended: the client is closing.
    let Some(message) = answer else {
        return Ok(Pulled::Interrupted);
    };
    match message.status {
        None => {
            let context: jetstream::Context = connection.context.clone();
            Ok(Pulled::Task(Box::new(Message { message, context })))
        }
        Some(StatusCode::NOT_FOUND | StatusCode::TIMEOUT) => Ok(Pulled::Empty),
        Some(StatusCode::NO_RESPONDERS) => Ok(Pulled::NoLane),
        Some(status) => Err(PullError::Refused {
            queue,
            status,
            reason: message.description.unwrap_or_default(),
        }),
    }
}
