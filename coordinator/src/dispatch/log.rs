//! The log of one job: its journal, the figures of attempts that failed, and the events for observers. The
//! dispatcher's [`Job`](super::job::Job) owns it and writes to it whenever something happens to a chunk.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use latentfarm_common::ids::{Attempt, ChunkId, ChunkName, WorkKind, WorkerId};
use latentfarm_common::queues::Queue;
use latentfarm_common::time::FrameRange;
use latentfarm_common::wire::memory::{MemoryPlan, OutOfMemory};
use latentfarm_common::wire::outcome::Failure;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::job_event::JobEvent;
use super::workers::SetAside;
use crate::job::chunk::state::{ChunkState, Phase};
use crate::job::chunks::Chunks;
use crate::job::refusals::{REFUSAL_LIMIT, Refusals};
use crate::job::retry::{Cause, RetryClass};
use crate::journal::{Journal, JournalEntry};
use crate::placement::{Fit, JobNeeds};

/// One attempt that ran out of memory, as the report lists it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OomRecord {
    pub chunk: ChunkName,
    pub attempt: Attempt,
    pub worker: WorkerId,
    pub oom: OutOfMemory,
    /// What followed for the next attempt, in one clause.
    pub consequence: String,
}

impl OomRecord {
    /// The record that a journal entry holds; `None` if the entry is about anything else.
    pub fn of(entry: &JournalEntry) -> Option<Self> {
        match entry {
            JournalEntry::Failed {
                chunk,
                attempt,
                worker,
                failure: Failure::OutOfMemory(oom),
                consequence,
                ..
            } => Some(Self {
                chunk: *chunk,
                attempt: *attempt,
                worker: worker.clone(),
                oom: oom.clone(),
                consequence: consequence.clone().unwrap_or_default(),
            }),
            _ => None,
        }
    }

    /// The shortages of an attempt that went on in place and finished; the list is empty if the entry is about anything
    /// else.
    pub fn in_place(entry: &JournalEntry) -> Vec<Self> {
        let JournalEntry::Done {
            chunk,
            attempt,
            worker,
            memory: Some(used),
            ..
        } = entry
        else {
            return Vec::new();
        };
        let next_plans = used
            .shortages
            .iter()
            .skip(1)
            .map(|next| next.plan)
            .chain([used.plan]);
        // Each shortage was followed by a leaner plan; a record with more of them is not believed.
        let shortages = used.shortages.iter().zip(next_plans).take(MemoryPlan::COUNT);
        shortages
            .map(|(oom, next)| Self {
                chunk: *chunk,
                attempt: *attempt,
                worker: worker.clone(),
                oom: oom.clone(),
                consequence: format!("the attempt went on under plan {next}"),
            })
            .collect()
    }

    fn is_same_attempt(&self, other: &Self) -> bool {
        (self.chunk, self.attempt, &self.worker) == (other.chunk, other.attempt, &other.worker)
    }
}

/// A worker that was unfit or set aside, as the report lists it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetAsideRecord {
    /// How often.
    pub times: u32,
    /// The reason of the last time, as a clause that follows the worker's name.
    pub reason: String,
}

/// The log of one job.
pub(super) struct JobLog {
    journal: Journal,
    /// The attempts that ran out of memory, in order, those of earlier runs first.
    pub(super) ooms: Vec<OomRecord>,
    /// The workers that were unfit or set aside while this run had the job.
    pub(super) set_aside: BTreeMap<WorkerId, SetAsideRecord>,
    /// The number of attempts of this run that ended without a result, by reason.
    pub(super) retries: BTreeMap<RetryClass, u64>,
    observer: mpsc::UnboundedSender<JobEvent>,
}

impl JobLog {
    pub(super) fn open(folder: &Path, observer: mpsc::UnboundedSender<JobEvent>) -> Self {
        Self {
            journal: Journal::open(folder),
            ooms: Vec::new(),
            set_aside: BTreeMap::new(),
            retries: BTreeMap::new(),
            observer,
        }
    }

    /// Takes from an entry of an earlier run that an attempt ran out of memory, and what that showed of its
    /// chunk.
    pub(super) fn restore(&mut self, entry: &JournalEntry, chunks: &mut Chunks, needs: &JobNeeds) {
        self.ooms.extend(OomRecord::in_place(entry));
        let (JournalEntry::Failed { chunk, queue, .. }, Some(note)) = (entry, OomRecord::of(entry)) else {
            return;
        };
        // An entry without a queue is about an attempt that no longer counted.
        if chunk.work == WorkKind::Render
            && let Some(queue) = queue
            && let Some(record) = chunks.render.get_mut(chunk.index as usize)
        {
            record.record_oom(needs, &note.oom, Some(queue.lane.class));
        }
        self.ooms.push(note);
    }

    pub(super) fn append(&mut self, entry: JournalEntry) {
        self.journal.append(entry);
    }

    /// Logs that a chunk is in another state; `requeued` gives the cause and the delay if it is back in the
    /// backlog.
    pub(super) fn on_move(
        &mut self,
        chunk: ChunkId,
        range: FrameRange,
        next: ChunkState,
        requeued: Option<(Cause, Duration)>,
    ) {
        match next.phase {
            Phase::Running { worker } => self.notify(JobEvent::ChunkStarted {
                chunk,
                range,
                worker,
                attempt: next.attempt,
            }),
            Phase::Done { record } => self.notify(JobEvent::ChunkDone {
                chunk,
                range,
                worker: record.worker.clone(),
                timings: record.timings,
            }),
            Phase::Quarantined { reason } => {
                self.append(JournalEntry::Quarantined {
                    chunk: chunk.name(),
                    reason: reason.clone(),
                });
                self.notify(JobEvent::ChunkQuarantined { chunk, range, reason });
            }
            Phase::Backlog => {
                if let Some((Cause { reason, .. }, delay)) = requeued {
                    self.notify(JobEvent::ChunkRequeued {
                        chunk,
                        range,
                        reason,
                        delay,
                    });
                }
            }
            Phase::Waiting | Phase::Queued => {}
        }
    }

    /// Logs that a chunk waits for memory, `at_most` for so long.
    pub(super) fn on_unschedulable(
        &mut self,
        chunk: ChunkId,
        range: FrameRange,
        reason: String,
        at_most: Duration,
    ) {
        self.append(JournalEntry::Unschedulable {
            chunk: chunk.name(),
            why: reason.clone(),
        });
        self.notify(JobEvent::ChunkUnschedulable {
            chunk,
            range,
            reason,
            at_most,
        });
    }

    /// Logs that a chunk waits because its workers refuse it, once for each series of refusals.
    pub(super) fn on_refused(
        &mut self,
        chunk: ChunkId,
        range: FrameRange,
        refusals: &Refusals,
        at_most: Duration,
    ) {
        if refusals.count == REFUSAL_LIMIT {
            self.on_unschedulable(chunk, range, refusals.describe(), at_most);
        }
    }

    /// Logs that a task was stored in a queue; `why` gives the reason for the queue in one clause.
    pub(super) fn on_placed(&mut self, chunk: ChunkId, attempt: Attempt, queue: Queue, fit: &Fit, why: &str) {
        self.append(JournalEntry::Placed {
            chunk: chunk.name(),
            attempt,
            queue,
            kind: fit.constraints.kind,
            floor: fit.constraints.floor,
            need_mib: fit.need_mib,
            needs: fit.constraints.needs,
            why: why.to_owned(),
        });
    }

    /// Logs that a worker is unfit or set aside. The observer gets the event from the dispatcher, as it concerns all jobs.
    pub(super) fn on_set_aside(&mut self, out: &SetAside) {
        let record = self.set_aside.entry(out.worker.clone()).or_default();
        record.times += 1;
        record.reason = out.describe();
        self.append(JournalEntry::SetAside {
            worker: out.worker.clone(),
            reason: out.reason.clone(),
            pause_seconds: out.pause.map(|pause| pause.as_secs()),
        });
    }

    /// Appends the entry of an attempt that failed. If the attempt ran out of memory, the report lists it.
    /// If the attempt had stopped to count, only the first report that it ran out of memory matters.
    pub(super) fn record_failure(&mut self, entry: JournalEntry, counts: bool) {
        let oom = OomRecord::of(&entry);
        let is_new = |late: &OomRecord| !self.ooms.iter().any(|known| known.is_same_attempt(late));
        if counts || oom.as_ref().is_some_and(is_new) {
            self.ooms.extend(oom);
            self.append(entry);
        }
    }

    /// Appends the entry of an attempt that finished. The report lists what it ran out of on the way.
    pub(super) fn record_done(&mut self, entry: JournalEntry) {
        self.ooms.extend(OomRecord::in_place(&entry));
        self.append(entry);
    }

    /// Logs an event of the job, and sends it to the observer.
    pub(super) fn notify(&self, event: JobEvent) {
        event.log();
        self.send(event);
    }

    /// Sends an event to the observer that the dispatcher has logged already, because it concerns every job.
    pub(super) fn send(&self, event: JobEvent) {
        // The observer may have been dropped.
        let _ = self.observer.send(event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal;
    use latentfarm_common::wire::memory::{DeviceKind, MemoryStage, MemoryUse};

    fn failed(worker: &str, number: u32, failure: Failure) -> JournalEntry {
        JournalEntry::Failed {
            chunk: "r00001".parse().unwrap(),
            attempt: Attempt { epoch: 1, number },
            worker: worker.parse().unwrap(),
            failure,
            queue: None,
            consequence: None,
        }
    }

    fn out_of_memory(worker: &str, number: u32) -> JournalEntry {
        let oom = OutOfMemory {
            kind: DeviceKind::Cuda,
            device: "cuda:0".to_owned(),
            stage: Some(MemoryStage::Denoise),
            plan: MemoryPlan::default(),
            needed_at_least_mib: None,
            free_before_mib: 100,
            suspected: false,
        };
        failed(worker, number, Failure::OutOfMemory(oom))
    }

    #[test]
    fn an_attempt_that_went_on_in_place_lists_each_shortage_with_the_plan_that_followed() {
        let shortage = |plan| OutOfMemory {
            kind: DeviceKind::Cuda,
            device: "cuda:0".to_owned(),
            stage: Some(MemoryStage::VaeDecode),
            plan,
            needed_at_least_mib: Some(4000),
            free_before_mib: 3900,
            suspected: false,
        };
        let done = JournalEntry::Done {
            chunk: "r00001".parse().unwrap(),
            attempt: Attempt { epoch: 1, number: 0 },
            worker: "w1".parse().unwrap(),
            frames: 16,
            numerics_fingerprint: "recorded".to_owned(),
            memory: Some(MemoryUse {
                kind: DeviceKind::Cuda,
                device: "cuda:0".to_owned(),
                plan: MemoryPlan::Streamed,
                predicted_mib: 2000,
                peak_mib: 1900,
                least_free_mib: 100,
                stages: Vec::new(),
                shortages: vec![shortage(MemoryPlan::Sliced), shortage(MemoryPlan::Offload)],
            }),
        };
        let folder = tempfile::tempdir().unwrap();
        let (observer, _events) = mpsc::unbounded_channel();
        let mut log = JobLog::open(folder.path(), observer);
        log.record_done(done);
        let listed: Vec<(MemoryPlan, &str)> = log
            .ooms
            .iter()
            .map(|note| (note.oom.plan, note.consequence.as_str()))
            .collect();
        assert_eq!(
            listed,
            [
                (MemoryPlan::Sliced, "the attempt went on under plan offload"),
                (MemoryPlan::Offload, "the attempt went on under plan streamed"),
            ]
        );
    }

    #[test]
    fn a_late_failure_is_listed_once_and_only_if_it_was_for_memory() {
        let folder = tempfile::tempdir().unwrap();
        let (observer, _events) = mpsc::unbounded_channel();
        let mut log = JobLog::open(folder.path(), observer);
        log.record_failure(out_of_memory("w1", 0), true);
        log.record_failure(out_of_memory("w1", 0), false);
        log.record_failure(out_of_memory("w2", 0), false);
        log.record_failure(out_of_memory("w2", 1), false);
        log.record_failure(out_of_memory("w2", 1), false);
        let transient = Failure::Transient {
            message: "the link went down".to_owned(),
        };
        log.record_failure(failed("w3", 0, transient), false);
        let listed: Vec<_> = log
            .ooms
            .iter()
            .map(|oom| (oom.worker.as_str(), oom.attempt.number))
            .collect();
        assert_eq!(listed, [("w1", 0), ("w2", 0), ("w2", 1)]);
        assert_eq!(journal::read(folder.path()).unwrap().len(), 3);
    }
}
