//! The events that change the state of a chunk. The dispatcher makes them from what workers report, from the
//! done log and from the queue.

use std::sync::Arc;

use latentfarm_common::ids::{Attempt, WorkerId};
use latentfarm_common::wire::outcome::{DoneRecord, Failure};

use crate::job::retry::{Cause, RetryClass};

/// Something that happened to one chunk.
#[derive(Clone, Debug, PartialEq)]
pub enum ChunkEvent {
    /// Everything that the chunk's task needs is known.
    Released,
    /// The chunk can never be released, or no worker can ever run it, or it has failed on enough of them.
    Blocked { reason: String },
    /// A task for the chunk was stored in the queue.
    Enqueued { attempt: Attempt },
    /// A worker reported that it began the task.
    Started { attempt: Attempt, worker: WorkerId },
    /// A done record of the chunk was verified.
    DoneSeen { record: Arc<DoneRecord> },
    /// A worker reported that the attempt failed.
    Failed {
        attempt: Attempt,
        worker: WorkerId,
        failure: Failure,
    },
    /// The chunk's task was removed from its queue, to be published to another one. A worker that pulled the
    /// task just before may still begin it.
    Reassigned { attempt: Attempt },
    /// A draining worker returned the task to the queue.
    Returned { attempt: Attempt },
    /// The worker's heartbeats stopped, or they name another chunk.
    WorkerLost { worker: WorkerId },
    /// The record of this attempt failed verification and is being removed from the done log. The worker that
    /// wrote it is unknown if it cannot be decoded.
    Retracted {
        attempt: Attempt,
        worker: Option<WorkerId>,
        reason: String,
    },
    /// A record in the done log that its worker has not signed, or has not begun, is being removed. The worker that
    /// has the attempt may have given it up because of that record.
    Forged { attempt: Attempt, reason: String },
    /// The queue holds no task for the chunk any more, or no worker can get the task.
    QueueLost { attempt: Attempt },
}

impl ChunkEvent {
    /// The worker on which an attempt failed by this event, if the failure may be the chunk's fault. That a worker is
    /// unfit, or has too little memory, shows nothing of the chunk.
    pub fn failed_on(&self) -> Option<&WorkerId> {
        match self {
            Self::Failed {
                worker,
                failure: Failure::BadInput { .. } | Failure::Transient { .. } | Failure::EngineLost { .. },
                ..
            }
            | Self::WorkerLost { worker } => Some(worker),
            Self::Retracted { worker, .. } => worker.as_ref(),
            Self::Failed {
                failure:
                    Failure::OutOfMemory(_) | Failure::InsufficientMemory { .. } | Failure::WorkerUnfit { .. },
                ..
            }
            | Self::Released
            | Self::Blocked { .. }
            | Self::Enqueued { .. }
            | Self::Started { .. }
            | Self::DoneSeen { .. }
            | Self::Reassigned { .. }
            | Self::Returned { .. }
            | Self::Forged { .. }
            | Self::QueueLost { .. } => None,
        }
    }

    /// Why the event ends an attempt without a result; `None` if it does not end one.
    pub fn cause(&self) -> Option<Cause> {
        let cause = |class, reason| Some(Cause { class, reason });
        match self {
            Self::Failed { failure, .. } => Some(Cause::of(failure)),
            Self::Retracted { reason, .. } => cause(
                RetryClass::BadResult,
                format!("its result failed verification: {reason}"),
            ),
            Self::Forged { reason, .. } => cause(
                RetryClass::ForgedResult,
                format!("a result of it was not accepted: {reason}"),
            ),
            Self::WorkerLost { worker } => cause(
                RetryClass::WorkerLost,
                format!("worker {worker} no longer works on it"),
            ),
            Self::QueueLost { .. } => cause(
                RetryClass::QueueLost,
                "its task vanished from the queue".to_owned(),
            ),
            Self::Released
            | Self::Blocked { .. }
            | Self::Enqueued { .. }
            | Self::Started { .. }
            | Self::DoneSeen { .. }
            | Self::Reassigned { .. }
            | Self::Returned { .. } => None,
        }
    }
}
