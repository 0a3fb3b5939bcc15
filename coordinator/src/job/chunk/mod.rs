//! The lifecycle of one chunk; the diagram is in the [parent module](super).

mod event;

pub use event::{ChunkEvent, DenyReason, Step};

use std::sync::Arc;

use latentfarm_common::ids::WorkerId;
use latentfarm_common::wire::outcome::{DoneRecord, Failure};

use super::attempt::{Attempt, MAX_EXCUSED, MAX_FAILURES, Tries, describe};

/// Where a chunk stands. `attempt` is the current enqueue, or in `Waiting` and `Backlog` the lowest that the
/// next one may have.
#[derive(Clone, Debug, PartialEq)]
pub enum ChunkState {
    /// Its frames' track is not final yet.
    Waiting { attempt: Attempt, tries: Tries },
    /// May be published.
    Backlog { attempt: Attempt, tries: Tries },
    /// Published.
    Queued { attempt: Attempt, tries: Tries },
    /// A worker said that it began.
    Running {
        attempt: Attempt,
        tries: Tries,
        worker: WorkerId,
    },
    /// Its record counts.
    Done {
        attempt: Attempt,
        tries: Tries,
        record: Arc<DoneRecord>,
    },
    /// Given up for this run.
    Quarantined {
        attempt: Attempt,
        tries: Tries,
        reason: String,
    },
}

/// Whose fault an unfinished attempt was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Blame {
    Chunk,
    Excused,
    Memory,
    Room,
}

impl ChunkState {
    /// A chunk that nothing has happened to.
    pub fn new() -> Self {
        Self::Waiting {
            attempt: Attempt::default(),
            tries: Tries::default(),
        }
    }

    pub fn attempt(&self) -> Attempt {
        self.parts().0
    }

    pub fn tries(&self) -> Tries {
        self.parts().1
    }

    /// Done or given up.
    pub fn is_settled(&self) -> bool {
        matches!(self, Self::Done { .. } | Self::Quarantined { .. })
    }

    fn parts(&self) -> (Attempt, Tries) {
        match self {
            Self::Waiting { attempt, tries }
            | Self::Backlog { attempt, tries }
            | Self::Queued { attempt, tries }
            | Self::Running { attempt, tries, .. }
            | Self::Done { attempt, tries, .. }
            | Self::Quarantined { attempt, tries, .. } => (*attempt, *tries),
        }
    }

    /// The state after `event`.
    pub fn on(&self, event: ChunkEvent) -> Step {
        match event {
            ChunkEvent::Released => self.on_released(),
            ChunkEvent::Blocked { reason } => self.on_blocked(reason),
            ChunkEvent::Enqueued { attempt } => self.on_enqueued(attempt),
            ChunkEvent::Started { attempt, worker } => self.on_started(attempt, worker),
            ChunkEvent::DoneSeen { record } => self.on_done(record),
            ChunkEvent::Failed { attempt, failure } => self.on_failed(attempt, &failure),
            ChunkEvent::TakenBack { attempt } => self.on_taken_back(attempt),
            ChunkEvent::GivenBack { attempt } => self.on_given_back(attempt),
            ChunkEvent::WorkerLost { worker } => self.on_worker_lost(&worker),
            ChunkEvent::Retracted { attempt, reason } => self.on_retracted(attempt, &reason),
            ChunkEvent::QueueLost { attempt } => self.on_queue_lost(attempt),
        }
    }

    fn on_released(&self) -> Step {
        match self {
            Self::Waiting { attempt, tries } => Step::Moved(Self::Backlog {
                attempt: *attempt,
                tries: *tries,
            }),
            Self::Backlog { .. }
            | Self::Queued { .. }
            | Self::Running { .. }
            | Self::Done { .. }
            | Self::Quarantined { .. } => Step::Ignored,
        }
    }

    fn on_blocked(&self, reason: String) -> Step {
        match self {
            // A task of an earlier run may still finish: a record that comes counts.
            Self::Waiting { attempt, tries } | Self::Backlog { attempt, tries } => {
                Step::Moved(Self::Quarantined {
                    attempt: *attempt,
                    tries: *tries,
                    reason,
                })
            }
            Self::Queued { .. } | Self::Running { .. } | Self::Done { .. } | Self::Quarantined { .. } => {
                Step::Ignored
            }
        }
    }

    fn on_enqueued(&self, enqueued: Attempt) -> Step {
        match self {
            // From `Waiting`: a task that an earlier coordinator left in the queue.
            Self::Waiting { attempt, tries } | Self::Backlog { attempt, tries } if enqueued >= *attempt => {
                Step::Moved(Self::Queued {
                    attempt: enqueued,
                    tries: *tries,
                })
            }
            Self::Queued { attempt, .. } | Self::Running { attempt, .. } if enqueued > *attempt => {
                Step::Denied(DenyReason::AlreadyUnderWay(enqueued))
            }
            Self::Waiting { .. }
            | Self::Backlog { .. }
            | Self::Queued { .. }
            | Self::Running { .. }
            | Self::Done { .. }
            | Self::Quarantined { .. } => Step::Ignored,
        }
    }

    fn on_started(&self, started: Attempt, worker: WorkerId) -> Step {
        match self {
            // Before its publish was acknowledged, or a task of an earlier coordinator.
            Self::Waiting { attempt, tries } | Self::Backlog { attempt, tries } if started >= *attempt => {
                Step::Moved(Self::Running {
                    attempt: started,
                    tries: *tries,
                    worker,
                })
            }
            Self::Queued { attempt, tries } if started == *attempt => Step::Moved(Self::Running {
                attempt: started,
                tries: *tries,
                worker,
            }),
            // Delivered again, to another worker.
            Self::Running {
                attempt,
                tries,
                worker: before,
            } if started == *attempt && worker != *before => Step::Moved(Self::Running {
                attempt: started,
                tries: *tries,
                worker,
            }),
            Self::Queued { attempt, .. } | Self::Running { attempt, .. } if started > *attempt => {
                Step::Denied(DenyReason::NeverEnqueued(started))
            }
            Self::Waiting { .. }
            | Self::Backlog { .. }
            | Self::Queued { .. }
            | Self::Running { .. }
            | Self::Done { .. }
            | Self::Quarantined { .. } => Step::Ignored,
        }
    }

    fn on_done(&self, record: Arc<DoneRecord>) -> Step {
        if matches!(self, Self::Done { .. }) {
            return Step::Ignored;
        }
        // The done log is the truth, whatever was believed: even a chunk that was given up is done.
        let (attempt, tries) = self.parts();
        Step::Moved(Self::Done {
            attempt: attempt.max(Attempt::of(&record)),
            tries,
            record,
        })
    }

    fn on_failed(&self, failed: Attempt, failure: &Failure) -> Step {
        if let Some(denied) = self.unless_under_way(failed) {
            return denied;
        }
        let reason = describe(failure);
        match failure {
            Failure::BadInput { .. } => Step::Moved(Self::Quarantined {
                attempt: failed,
                tries: self.tries(),
                reason,
            }),
            Failure::OutOfMemory { .. } => self.try_again(failed, Blame::Memory, &reason),
            Failure::NoRoom { .. } => self.try_again(failed, Blame::Room, &reason),
            Failure::WorkerUnfit { .. } => self.try_again(failed, Blame::Excused, &reason),
            Failure::Transient { .. } | Failure::EngineLost { .. } => {
                self.try_again(failed, Blame::Chunk, &reason)
            }
        }
    }

    fn on_taken_back(&self, taken: Attempt) -> Step {
        match self {
            Self::Queued { attempt, tries } if taken == *attempt => Step::Moved(Self::Backlog {
                attempt: taken,
                tries: *tries,
            }),
            Self::Waiting { .. }
            | Self::Backlog { .. }
            | Self::Queued { .. }
            | Self::Running { .. }
            | Self::Done { .. }
            | Self::Quarantined { .. } => Step::Ignored,
        }
    }

    fn on_given_back(&self, given: Attempt) -> Step {
        match self {
            Self::Running { attempt, tries, .. } if given == *attempt => Step::Moved(Self::Queued {
                attempt: given,
                tries: *tries,
            }),
            Self::Queued { attempt, .. } | Self::Running { attempt, .. } if given > *attempt => {
                Step::Denied(DenyReason::NeverEnqueued(given))
            }
            Self::Waiting { .. }
            | Self::Backlog { .. }
            | Self::Queued { .. }
            | Self::Running { .. }
            | Self::Done { .. }
            | Self::Quarantined { .. } => Step::Ignored,
        }
    }

    fn on_worker_lost(&self, lost: &WorkerId) -> Step {
        match self {
            Self::Running { attempt, worker, .. } if worker == lost => {
                self.try_again(*attempt, Blame::Excused, &format!("{worker} went silent"))
            }
            Self::Waiting { .. }
            | Self::Backlog { .. }
            | Self::Queued { .. }
            | Self::Running { .. }
            | Self::Done { .. }
            | Self::Quarantined { .. } => Step::Ignored,
        }
    }

    fn on_retracted(&self, retracted: Attempt, reason: &str) -> Step {
        match self {
            Self::Done { record, .. } if Attempt::of(record) == retracted => {
                self.try_again(self.attempt(), Blame::Chunk, reason)
            }
            Self::Queued { attempt, .. } | Self::Running { attempt, .. } if retracted >= *attempt => {
                self.try_again(retracted, Blame::Chunk, reason)
            }
            // Not enqueued yet: the next enqueue must be newer than the record.
            Self::Waiting { attempt, tries } if retracted >= *attempt => Step::Moved(Self::Waiting {
                attempt: retracted.next(),
                tries: *tries,
            }),
            Self::Backlog { attempt, .. } if retracted >= *attempt => {
                self.try_again(retracted, Blame::Chunk, reason)
            }
            Self::Waiting { .. }
            | Self::Backlog { .. }
            | Self::Queued { .. }
            | Self::Running { .. }
            | Self::Done { .. }
            | Self::Quarantined { .. } => Step::Ignored,
        }
    }

    fn on_queue_lost(&self, lost: Attempt) -> Step {
        match self {
            Self::Queued { attempt, .. } | Self::Running { attempt, .. } if *attempt == lost => {
                self.try_again(lost, Blame::Excused, "its task vanished from the queue")
            }
            Self::Waiting { .. }
            | Self::Backlog { .. }
            | Self::Queued { .. }
            | Self::Running { .. }
            | Self::Done { .. }
            | Self::Quarantined { .. } => Step::Ignored,
        }
    }

    /// The answer to a report about an attempt that is not the one under way.
    fn unless_under_way(&self, reported: Attempt) -> Option<Step> {
        match self {
            Self::Queued { attempt, .. } | Self::Running { attempt, .. } if reported == *attempt => None,
            // Enqueued, but the acknowledgement of the publish was lost.
            Self::Backlog { attempt, .. } if reported >= *attempt => None,
            Self::Queued { attempt, .. } | Self::Running { attempt, .. } if reported > *attempt => {
                Some(Step::Denied(DenyReason::NeverEnqueued(reported)))
            }
            Self::Waiting { .. }
            | Self::Backlog { .. }
            | Self::Queued { .. }
            | Self::Running { .. }
            | Self::Done { .. }
            | Self::Quarantined { .. } => Some(Step::Ignored),
        }
    }

    fn try_again(&self, ended: Attempt, blame: Blame, reason: &str) -> Step {
        let mut tries = self.tries();
        match blame {
            Blame::Chunk => tries.failed += 1,
            Blame::Excused => tries.excused += 1,
            Blame::Memory => tries.out_of_memory += 1,
            Blame::Room => tries.no_room += 1,
        }
        if tries.failed >= MAX_FAILURES || tries.excused >= MAX_EXCUSED {
            return Step::Moved(Self::Quarantined {
                attempt: ended,
                tries,
                reason: format!("gave up after {} attempts; the last one: {reason}", tries.total()),
            });
        }
        Step::Moved(Self::Backlog {
            attempt: ended.next(),
            tries,
        })
    }
}

impl Default for ChunkState {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests;
