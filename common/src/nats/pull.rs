//! Pulls one task from a queue, for the worker's task loop.
//!
//! The request is our own, because the library's `fetch` loses a message after an idle heartbeat, does not
//! notice a restart of the server, and needs the right to look up consumers. If the queue has no consumer
//! yet, the server answers a pull at once with "no responders".

use std::time::Duration;

use async_nats::jetstream::{self, Message};
use async_nats::{StatusCode, Subscriber};
use futures::StreamExt as _;
use tokio::time::{Instant, timeout, timeout_at};

use super::connect::{Connection, request_many};
use super::error::StreamError;
use super::topology;
use crate::queues::Queue;

/// Limit of the answer to a pull that does not wait for a task.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// The server ends a waiting pull itself; if it has not done so this much later, the pull counts as ended.
const EXPIRY_SLACK: Duration = Duration::from_secs(1);
/// Limit for a task that the server may have sent before a waiting pull was interrupted.
const IN_FLIGHT_LIMIT: Duration = Duration::from_millis(30);

/// The result of a pull from one queue.
#[derive(Debug)]
pub enum Pulled {
    /// A task, which this worker holds from now on.
    Task(Box<Message>),
    /// The queue has no task.
    Empty,
    /// The queue has no consumer, as no task was ever published to it.
    NoQueue,
    /// The wait ended before its time; see [`wait_for_task`].
    Interrupted,
}

/// Takes a task from `queue` if one waits there.
pub async fn try_pull(connection: &Connection, queue: Queue) -> Result<Pulled, StreamError> {
    let request = r#"{"batch":1,"no_wait":true}"#.to_owned();
    let mut answers = send_pull(connection, queue, request).await?;
    let answer = timeout(ANSWER_LIMIT, answers.next());
    match connection.unless_reconnected(answer).await {
        Some(Ok(answer)) => interpret(connection, queue, answer),
        Some(Err(_)) => Err(failed(queue, format!("no answer within {ANSWER_LIMIT:?}").into())),
        None => Ok(Pulled::Interrupted),
    }
}

/// Waits up to `expires` for a task in `queue`. Ends early as [`Pulled::Interrupted`] if the connection was
/// made again (the server has dropped the pull then) or when `interrupt` completes. If the future is dropped
/// while a task is on its way, that task is delayed by one `ack_wait`.
pub async fn wait_for_task(
    connection: &Connection,
    queue: Queue,
    expires: Duration,
    interrupt: impl Future<Output = ()>,
) -> Result<Pulled, StreamError> {
    let mut connects = connection.connects();
    connects.mark_unchanged();
    let request = format!(r#"{{"batch":1,"expires":{}}}"#, expires.as_nanos());
    let mut answers = send_pull(connection, queue, request).await?;
    let deadline = Instant::now() + expires + EXPIRY_SLACK;
    tokio::select! {
        answer = timeout_at(deadline, answers.next()) => match answer {
            Ok(answer) => interpret(connection, queue, answer),
            Err(_) => Ok(Pulled::Empty),
        },
        // The connection holds the sender, so `changed` does not fail while it lives.
        _ = connects.changed() => Ok(Pulled::Interrupted),
        () = interrupt => match timeout(IN_FLIGHT_LIMIT, answers.next()).await {
            Ok(answer @ Some(_)) => interpret(connection, queue, answer),
            Ok(None) | Err(_) => Ok(Pulled::Interrupted),
        },
    }
}

async fn send_pull(
    connection: &Connection,
    queue: Queue,
    request: String,
) -> Result<Subscriber, StreamError> {
    let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{}.{queue}", topology::TASKS);
    let sent = request_many(&connection.client, subject, request).await;
    sent.map_err(|cause| failed(queue, cause))
}

fn failed(queue: Queue, cause: async_nats::Error) -> StreamError {
    StreamError::new(format!("pull a task from queue {queue}"), cause)
}

fn interpret(
    connection: &Connection,
    queue: Queue,
    answer: Option<async_nats::Message>,
) -> Result<Pulled, StreamError> {
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
        Some(StatusCode::NO_RESPONDERS) => Ok(Pulled::NoQueue),
        Some(status) => {
            let reason = message.description.unwrap_or_default();
            Err(failed(
                queue,
                format!("the server refused with {status}: {reason}").into(),
            ))
        }
    }
}
