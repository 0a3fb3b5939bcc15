//! What happens to chunks.

use std::sync::Arc;

use latentfarm_common::ids::{Attempt, WorkerId};
use latentfarm_common::wire::outcome::{DoneRecord, Failure};

use crate::job::retry::{Cause, RetryClass};

/// What can happen to a chunk.
#[derive(Clone, Debug, PartialEq)]
pub enum ChunkEvent {
    /// Everything that it needs is known.
    Released,
    /// It can never be released, or nobody can ever run it.
    Blocked { reason: String },
    /// A task for it is in the queue.
    Enqueued { attempt: Attempt },
    /// A worker said that it began the task.
    Started { attempt: Attempt, worker: WorkerId },
    /// A done record of it was verified.
    DoneSeen { record: Arc<DoneRecord> },
    /// A worker reported that the attempt failed.
    Failed { attempt: Attempt, failure: Failure },
    /// Its task was taken out of the queue, to be published elsewhere. Whoever pulled it at that very moment may
    /// still begin it.
    TakenBack { attempt: Attempt },
    /// A draining worker handed it back to the queue.
    GivenBack { attempt: Attempt },
    /// The worker's heartbeat stopped, or names another chunk.
    WorkerLost { worker: WorkerId },
    /// The record of this attempt failed verification and is being removed from the done log.
    Retracted { attempt: Attempt, reason: String },
    /// The queue holds no task for it any more, or holds it where nobody gets it.
    QueueLost { attempt: Attempt },
}

impl ChunkEvent {
    /// Why the event ends an attempt without a result; `None` if it does not.
    pub fn cause(&self) -> Option<Cause> {
        let cause = |class, reason| Some(Cause { class, reason });
        match self {
            Self::Failed { failure, .. } => Some(Cause::of(failure)),
            Self::Retracted { reason, .. } => cause(
                RetryClass::BadResult,
                format!("its result failed verification: {reason}"),
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
            | Self::TakenBack { .. }
            | Self::GivenBack { .. } => None,
        }
    }

    /// The class of the failure that the event is; `None` if it is none.
    pub fn class(&self) -> Option<RetryClass> {
        self.cause().map(|cause| cause.class)
    }
}
