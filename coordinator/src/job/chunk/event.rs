//! What happens to chunks, and how they answer.

use std::sync::Arc;

use latentfarm_common::ids::WorkerId;
use latentfarm_common::wire::outcome::{DoneRecord, Failure};

use super::ChunkState;
use crate::job::attempt::Attempt;

/// What can happen to a chunk.
#[derive(Clone, Debug, PartialEq)]
pub enum ChunkEvent {
    /// Everything that it needs is known.
    Released,
    /// It can never be released, or nobody can ever run it.
    Blocked {
        reason: String,
    },
    /// A task for it is in the queue.
    Enqueued {
        attempt: Attempt,
    },
    Started {
        attempt: Attempt,
        worker: WorkerId,
    },
    /// A verified done record.
    DoneSeen {
        record: Arc<DoneRecord>,
    },
    Failed {
        attempt: Attempt,
        failure: Failure,
    },
    /// Its task was taken out of the queue, to be published elsewhere. Whoever pulled it at that very moment may
    /// still begin it.
    TakenBack {
        attempt: Attempt,
    },
    /// A draining worker handed it back to the queue.
    GivenBack {
        attempt: Attempt,
    },
    /// The worker's heartbeat stopped.
    WorkerLost {
        worker: WorkerId,
    },
    /// The record of this attempt failed verification and was removed from the done log.
    Retracted {
        attempt: Attempt,
        reason: String,
    },
    /// The queue holds no task for it any more, or holds it where nobody gets it.
    QueueLost {
        attempt: Attempt,
    },
}

/// Answer to an event.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    Moved(ChunkState),
    /// Late or repeated.
    Ignored,
    Denied(DenyReason),
}

/// Why an event cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DenyReason {
    #[error("attempt {0} was never enqueued")]
    NeverEnqueued(Attempt),
    #[error("attempt {0} was enqueued while another was under way")]
    AlreadyUnderWay(Attempt),
}
