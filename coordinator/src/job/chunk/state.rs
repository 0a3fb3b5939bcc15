//! The state of a chunk, and the transitions that events cause.

use std::sync::Arc;

use latentfarm_common::ids::{Attempt, WorkerId};
use latentfarm_common::wire::outcome::DoneRecord;

use super::event::ChunkEvent;
use crate::job::retry::{Budget, RetryClass};
use crate::job::tries::Tries;

use Phase::{Backlog, Done, Quarantined, Queued, Running, Waiting};

/// The state of one chunk.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ChunkState {
    /// The attempt that is queued, running or over; in `Waiting` and `Backlog` the lowest that may be
    /// enqueued next.
    pub attempt: Attempt,
    /// The attempts that ended without a result.
    pub tries: Tries,
    pub phase: Phase,
}

/// The phases of a chunk's life.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Phase {
    /// The chunk waits until the speaker track of its frames is final.
    #[default]
    Waiting,
    /// The chunk may be published.
    Backlog,
    /// A task of the chunk is in the queue.
    Queued,
    /// A worker reported that it began the task.
    Running { worker: WorkerId },
    /// The record was verified, and counts.
    Done { record: Arc<DoneRecord> },
    /// The chunk is given up for this run.
    Quarantined { reason: String },
}

/// The answer of a state to an event.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// The event changes the state to this one.
    Moved(ChunkState),
    /// The event is late or repeated.
    Ignored,
    /// The event contradicts the state.
    Denied(DenyReason),
}

/// Why an event contradicts the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DenyReason {
    #[error("attempt {0} was never enqueued")]
    NeverEnqueued(Attempt),
    #[error("attempt {0} was enqueued while another was under way")]
    AlreadyUnderWay(Attempt),
}

impl ChunkState {
    /// Whether the chunk is done or quarantined.
    pub fn is_settled(&self) -> bool {
        matches!(self.phase, Done { .. } | Quarantined { .. })
    }

    /// The verified record; `None` unless the chunk is done.
    pub fn record(&self) -> Option<&Arc<DoneRecord>> {
        match &self.phase {
            Done { record } => Some(record),
            Waiting | Backlog | Queued | Running { .. } | Quarantined { .. } => None,
        }
    }

    /// Whether a task of the chunk is queued or running.
    pub fn is_under_way(&self) -> bool {
        matches!(self.phase, Queued | Running { .. })
    }

    /// Whether a report about `attempt` is about the attempt that counts.
    pub fn is_current(&self, attempt: Attempt) -> bool {
        match self.phase {
            Queued | Running { .. } => attempt == self.attempt,
            // The attempt was enqueued, but the acknowledgement of its publish was lost.
            Backlog => attempt >= self.attempt,
            Waiting | Done { .. } | Quarantined { .. } => false,
        }
    }

    /// Whether the worker is the last that reported to have begun the chunk.
    pub fn is_running_on(&self, name: &WorkerId) -> bool {
        matches!(&self.phase, Running { worker } if worker == name)
    }

    /// Returns the state that follows from `event`. The function is pure, and total over states and events.
    pub fn on(&self, event: ChunkEvent) -> Step {
        let cause = event.cause();
        let ended = match event {
            ChunkEvent::Released => {
                return match self.phase {
                    Waiting => self.moved(self.attempt, Backlog),
                    Backlog | Queued | Running { .. } | Done { .. } | Quarantined { .. } => Step::Ignored,
                };
            }
            ChunkEvent::Blocked { reason } => {
                return match self.phase {
                    // A task of an earlier run may still finish: a record that comes counts.
                    Waiting | Backlog => self.moved(self.attempt, Quarantined { reason }),
                    Queued | Running { .. } | Done { .. } | Quarantined { .. } => Step::Ignored,
                };
            }
            ChunkEvent::Enqueued { attempt } => return self.on_enqueued(attempt),
            ChunkEvent::Started { attempt, worker } => return self.on_started(attempt, worker),
            ChunkEvent::DoneSeen { record } => {
                return match self.phase {
                    // The done log is the truth, whatever the state is: even a quarantined chunk is done by
                    // it.
                    Waiting | Backlog | Queued | Running { .. } | Quarantined { .. } => {
                        self.moved(self.attempt.max(record.attempt), Done { record })
                    }
                    Done { .. } => Step::Ignored,
                };
            }
            ChunkEvent::Reassigned { attempt } if self.phase == Queued && attempt == self.attempt => {
                return self.moved(attempt, Backlog);
            }
            ChunkEvent::Reassigned { .. } => return Step::Ignored,
            ChunkEvent::Returned { attempt } => {
                return match self.phase {
                    Running { .. } if attempt == self.attempt => self.moved(attempt, Queued),
                    Waiting | Backlog | Queued | Running { .. } | Done { .. } | Quarantined { .. } => {
                        self.unless_early(attempt)
                    }
                };
            }
            // The chunk was not enqueued yet, and its next attempt must be newer than the record.
            ChunkEvent::Retracted { attempt, .. } if self.phase == Waiting && attempt >= self.attempt => {
                return self.moved(attempt.next(), Waiting);
            }
            ChunkEvent::Retracted { attempt, .. } => match &self.phase {
                Done { record } => (record.attempt == attempt).then_some(self.attempt),
                Backlog | Queued | Running { .. } => (attempt >= self.attempt).then_some(attempt),
                Waiting | Quarantined { .. } => None,
            },
            ChunkEvent::Failed { attempt, .. } if self.is_current(attempt) => Some(attempt),
            ChunkEvent::Failed { attempt, .. } => return self.unless_early(attempt),
            ChunkEvent::WorkerLost { worker } => self.is_running_on(&worker).then_some(self.attempt),
            ChunkEvent::QueueLost { attempt } | ChunkEvent::Forged { attempt, .. } => {
                (self.is_under_way() && attempt == self.attempt).then_some(attempt)
            }
        };
        let ended = ended.zip(cause);
        ended.map_or(Step::Ignored, |(attempt, cause)| self.end(attempt, cause.class))
    }

    fn moved(&self, attempt: Attempt, phase: Phase) -> Step {
        let tries = self.tries;
        Step::Moved(Self {
            attempt,
            tries,
            phase,
        })
    }

    fn on_enqueued(&self, enqueued: Attempt) -> Step {
        match self.phase {
            // A chunk that waits gets here by a task that an earlier coordinator left in the queue.
            Waiting | Backlog if enqueued >= self.attempt => self.moved(enqueued, Queued),
            Queued | Running { .. } if enqueued > self.attempt => {
                Step::Denied(DenyReason::AlreadyUnderWay(enqueued))
            }
            Waiting | Backlog | Queued | Running { .. } | Done { .. } | Quarantined { .. } => Step::Ignored,
        }
    }

    fn on_started(&self, started: Attempt, worker: WorkerId) -> Step {
        match &self.phase {
            // The report came before the publish was acknowledged, or it is about a task of an earlier
            // coordinator.
            Waiting | Backlog if started >= self.attempt => self.moved(started, Running { worker }),
            Queued if started == self.attempt => self.moved(started, Running { worker }),
            // The queue delivered the task again, to another worker.
            Running { worker: before } if started == self.attempt && worker != *before => {
                self.moved(started, Running { worker })
            }
            Waiting | Backlog | Queued | Running { .. } | Done { .. } | Quarantined { .. } => {
                self.unless_early(started)
            }
        }
    }

    /// The answer to a report that changes nothing: it is late, unless no such attempt was ever enqueued.
    fn unless_early(&self, reported: Attempt) -> Step {
        if self.is_under_way() && reported > self.attempt {
            Step::Denied(DenyReason::NeverEnqueued(reported))
        } else {
            Step::Ignored
        }
    }

    /// Ends an attempt without a result: the chunk is tried again, unless the dispatcher gives it up.
    fn end(&self, attempt: Attempt, class: RetryClass) -> Step {
        let mut tries = self.tries;
        match class.budget() {
            Budget::Failures => tries.failed += 1,
            Budget::Excused => tries.excused += 1,
            Budget::OutOfMemory => tries.out_of_memory += 1,
            Budget::InsufficientMemory => tries.insufficient_memory += 1,
        }
        Step::Moved(Self {
            attempt: attempt.next(),
            tries,
            phase: Backlog,
        })
    }
}
