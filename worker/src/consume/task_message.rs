//! Reads task messages. `handle.rs` calls it for each delivery.

use latentfarm_common::error::one_line;
use latentfarm_common::ids::{Attempt, ChunkId};
use latentfarm_common::nats::subjects::Subject;
use latentfarm_common::nats::tasks::attempt_of;
use latentfarm_common::queues::Queue;
use latentfarm_common::wire::task::{Task, TaskBody};
use latentfarm_common::wire::{self, WireError};

/// A message that cannot be read as a task, with the parts that could be.
pub(super) struct UnreadableTask {
    /// `None` if the subject is not a task's.
    pub(super) chunk: Option<ChunkId>,
    pub(super) attempt: Attempt,
    pub(super) reason: String,
    /// Whether another release has written it, so that other workers may read it.
    pub(super) is_of_another_release: bool,
}

/// Reads the task in a message, and the queue that it was pulled from.
pub(super) fn read_task(message: &async_nats::Message) -> Result<(Task, Queue), UnreadableTask> {
    let id = message
        .headers
        .as_ref()
        .and_then(|headers| headers.get(async_nats::header::NATS_MESSAGE_ID));
    let attempt = id.and_then(|id| attempt_of(id.as_str())).unwrap_or_default();
    let subject = message.subject.as_str();
    let Ok(Subject::Task { queue, chunk }) = subject.parse() else {
        let reason = format!("`{subject}` is not a task's subject");
        return Err(UnreadableTask {
            chunk: None,
            attempt,
            reason,
            is_of_another_release: false,
        });
    };
    let unreadable = |reason: String| UnreadableTask {
        chunk: Some(chunk),
        attempt,
        reason,
        is_of_another_release: false,
    };
    let task: Task = wire::decode(&message.payload).map_err(|error| UnreadableTask {
        is_of_another_release: matches!(error, WireError::UnknownSchema { .. }),
        ..unreadable(one_line(&error))
    })?;
    if task.chunk != chunk {
        return Err(unreadable(format!(
            "it is about {} but was published for {chunk}",
            task.chunk
        )));
    }
    Ok((task, queue))
}

/// Returns the number of frames that a task is about.
pub(super) fn frames_of(task: &Task) -> u32 {
    let range = match &task.body {
        TaskBody::Analyze(task) => task.range,
        TaskBody::Render(task) => task.range,
    };
    u32::try_from(range.len()).unwrap_or(u32::MAX)
}
