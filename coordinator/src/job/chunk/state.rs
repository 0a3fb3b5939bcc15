//! Where a chunk stands, and how it answers events.

use std::cmp::Ordering;
use std::sync::Arc;

use latentfarm_common::ids::{Attempt, WorkerId};
use latentfarm_common::wire::outcome::DoneRecord;

use super::event::ChunkEvent;
use crate::job::attempt::{MAX_EXCUSED, MAX_FAILURES, Tries};
use crate::job::retry::{Budget, Cause};

/// Where a chunk stands.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ChunkState {
    /// The current enqueue, or in `Waiting` and `Backlog` the lowest that the next one may have.
    pub attempt: Attempt,
    /// The attempts that ended without a result.
    pub tries: Tries,
    pub phase: Phase,
}

/// The phases of a chunk's life.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Phase {
    /// Its frames' track is not final yet.
    #[default]
    Waiting,
    /// It may be published.
    Backlog,
    /// It is published.
    Queued,
    /// A worker said that it began.
    Running { worker: WorkerId },
    /// Its record counts.
    Done { record: Arc<DoneRecord> },
    /// It is given up for this run.
    Quarantined { reason: String },
}

/// Answer to an event.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    Moved(ChunkState),
    /// The event is late or repeated.
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

impl ChunkState {
    /// Whether the chunk is done or given up.
    pub fn is_settled(&self) -> bool {
        matches!(self.phase, Phase::Done { .. } | Phase::Quarantined { .. })
    }

    /// Whether a task of it is queued or running.
    pub fn is_under_way(&self) -> bool {
        matches!(self.phase, Phase::Queued | Phase::Running { .. })
    }

    /// Whether a report about `attempt` is about the attempt that counts.
    pub fn is_current(&self, attempt: Attempt) -> bool {
        match self.phase {
            Phase::Queued | Phase::Running { .. } => attempt == self.attempt,
            // It was enqueued, but the acknowledgement of the publish was lost.
            Phase::Backlog => attempt >= self.attempt,
            Phase::Waiting | Phase::Done { .. } | Phase::Quarantined { .. } => false,
        }
    }

    /// The state after `event`.
    pub fn on(&self, event: ChunkEvent) -> Step {
        let cause = event.cause();
        let ended = match event {
            ChunkEvent::Released => return self.on_released(),
            ChunkEvent::Blocked { reason } => return self.on_blocked(reason),
            ChunkEvent::Enqueued { attempt } => return self.on_enqueued(attempt),
            ChunkEvent::Started { attempt, worker } => return self.on_started(attempt, worker),
            ChunkEvent::DoneSeen { record } => return self.on_done(record),
            ChunkEvent::TakenBack { attempt } => return self.on_taken_back(attempt),
            ChunkEvent::GivenBack { attempt } => return self.on_given_back(attempt),
            ChunkEvent::Retracted { attempt, .. } if self.phase == Phase::Waiting => {
                return self.on_retracted_early(attempt);
            }
            ChunkEvent::Failed { attempt, .. } if self.is_current(attempt) => Some(attempt),
            ChunkEvent::Failed { attempt, .. } => return self.unless_early(attempt),
            ChunkEvent::WorkerLost { worker } => self.is_running_on(&worker).then_some(self.attempt),
            ChunkEvent::Retracted { attempt, .. } => self.ended_by_retraction(attempt),
            ChunkEvent::QueueLost { attempt } => {
                (self.is_under_way() && attempt == self.attempt).then_some(attempt)
            }
        };
        let ended = ended.zip(cause);
        ended.map_or(Step::Ignored, |(attempt, cause)| self.end(attempt, &cause))
    }

    /// Whether the worker said last that it began the chunk.
    pub fn is_running_on(&self, name: &WorkerId) -> bool {
        matches!(&self.phase, Phase::Running { worker } if worker == name)
    }

    fn moved(&self, attempt: Attempt, phase: Phase) -> Step {
        let tries = self.tries;
        Step::Moved(Self {
            attempt,
            tries,
            phase,
        })
    }

    fn on_released(&self) -> Step {
        match self.phase {
            Phase::Waiting => self.moved(self.attempt, Phase::Backlog),
            Phase::Backlog
            | Phase::Queued
            | Phase::Running { .. }
            | Phase::Done { .. }
            | Phase::Quarantined { .. } => Step::Ignored,
        }
    }

    fn on_blocked(&self, reason: String) -> Step {
        match self.phase {
            // A task of an earlier run may still finish: a record that comes counts.
            Phase::Waiting | Phase::Backlog => self.moved(self.attempt, Phase::Quarantined { reason }),
            Phase::Queued | Phase::Running { .. } | Phase::Done { .. } | Phase::Quarantined { .. } => {
                Step::Ignored
            }
        }
    }

    fn on_enqueued(&self, enqueued: Attempt) -> Step {
        match (&self.phase, enqueued.cmp(&self.attempt)) {
            // From `Waiting`: a task that an earlier coordinator left in the queue.
            (Phase::Waiting | Phase::Backlog, Ordering::Equal | Ordering::Greater) => {
                self.moved(enqueued, Phase::Queued)
            }
            (Phase::Queued | Phase::Running { .. }, Ordering::Greater) => {
                Step::Denied(DenyReason::AlreadyUnderWay(enqueued))
            }
            (Phase::Waiting | Phase::Backlog, Ordering::Less)
            | (Phase::Queued | Phase::Running { .. }, Ordering::Less | Ordering::Equal)
            | (Phase::Done { .. } | Phase::Quarantined { .. }, _) => Step::Ignored,
        }
    }

    fn on_started(&self, started: Attempt, worker: WorkerId) -> Step {
        match (&self.phase, started.cmp(&self.attempt)) {
            // From `Waiting` and `Backlog`: before its publish was acknowledged, or a task of an earlier coordinator.
            (Phase::Waiting | Phase::Backlog, Ordering::Equal | Ordering::Greater)
            | (Phase::Queued, Ordering::Equal) => self.moved(started, Phase::Running { worker }),
            // Delivered again, to another worker.
            (Phase::Running { worker: before }, Ordering::Equal) if worker != *before => {
                self.moved(started, Phase::Running { worker })
            }
            (
                Phase::Waiting
                | Phase::Backlog
                | Phase::Queued
                | Phase::Running { .. }
                | Phase::Done { .. }
                | Phase::Quarantined { .. },
                _,
            ) => self.unless_early(started),
        }
    }

    fn on_done(&self, record: Arc<DoneRecord>) -> Step {
        match self.phase {
            // The done log is the truth, whatever was believed: even a chunk that was given up is done.
            Phase::Waiting
            | Phase::Backlog
            | Phase::Queued
            | Phase::Running { .. }
            | Phase::Quarantined { .. } => {
                self.moved(self.attempt.max(record.attempt), Phase::Done { record })
            }
            Phase::Done { .. } => Step::Ignored,
        }
    }

    fn on_taken_back(&self, taken: Attempt) -> Step {
        if self.phase == Phase::Queued && taken == self.attempt {
            self.moved(taken, Phase::Backlog)
        } else {
            Step::Ignored
        }
    }

    fn on_given_back(&self, given: Attempt) -> Step {
        if matches!(self.phase, Phase::Running { .. }) && given == self.attempt {
            self.moved(given, Phase::Queued)
        } else {
            self.unless_early(given)
        }
    }

    /// A record of a chunk that was not enqueued yet: the next enqueue must be newer than it.
    fn on_retracted_early(&self, retracted: Attempt) -> Step {
        if retracted >= self.attempt {
            self.moved(retracted.next(), Phase::Waiting)
        } else {
            Step::Ignored
        }
    }

    /// The attempt that a retraction ends.
    fn ended_by_retraction(&self, retracted: Attempt) -> Option<Attempt> {
        match &self.phase {
            Phase::Done { record } => (record.attempt == retracted).then_some(self.attempt),
            Phase::Backlog | Phase::Queued | Phase::Running { .. } => {
                (retracted >= self.attempt).then_some(retracted)
            }
            Phase::Waiting | Phase::Quarantined { .. } => None,
        }
    }

    /// The answer to a report that moves nothing: it is late, unless no such attempt was ever enqueued.
    fn unless_early(&self, reported: Attempt) -> Step {
        if self.is_under_way() && reported > self.attempt {
            Step::Denied(DenyReason::NeverEnqueued(reported))
        } else {
            Step::Ignored
        }
    }

    /// The attempt ended without a result: the chunk is tried again within its budget.
    fn end(&self, ended: Attempt, cause: &Cause) -> Step {
        let (mut tries, reason) = (self.tries, &cause.reason);
        let quarantined = |tries, reason| {
            Step::Moved(Self {
                attempt: ended,
                tries,
                phase: Phase::Quarantined { reason },
            })
        };
        match cause.class.budget() {
            Budget::Failures => tries.failed += 1,
            Budget::Excused => tries.excused += 1,
            Budget::OutOfMemory => tries.out_of_memory += 1,
            Budget::NoRoom => tries.no_room += 1,
            Budget::Final => return quarantined(tries, reason.clone()),
        }
        if tries.failed >= MAX_FAILURES || tries.excused >= MAX_EXCUSED {
            let attempts = tries.total();
            let reason = format!("gave up after {attempts} attempts; the last one: {reason}");
            return quarantined(tries, reason);
        }
        Step::Moved(Self {
            attempt: ended.next(),
            tries,
            phase: Phase::Backlog,
        })
    }
}
