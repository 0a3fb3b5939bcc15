//! What a job leaves in writing: its journal, the figures of attempts that failed, and notices to whoever watches.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use latentfarm_common::ids::{Attempt, ChunkId, ChunkName, WorkerId};
use latentfarm_common::queues::Queue;
use latentfarm_common::time::FrameRange;
use latentfarm_common::wire::job::JobSpec;
use latentfarm_common::wire::memory::OutOfMemory;
use latentfarm_common::wire::outcome::{DoneRecord, Failure};
use latentfarm_common::wire::task::Task;
use tokio::sync::mpsc;

use super::notice::JobEvent;
use super::settings::JobSettings;
use crate::job::chunk::state::{ChunkState, Phase};
use crate::job::chunks::Chunks;
use crate::job::record::Planned;
use crate::job::retry::{Cause, RetryClass};
use crate::journal::{Entry, Journal};

/// One attempt that ran out of memory, as the report lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OomNote {
    pub chunk: ChunkName,
    pub attempt: Attempt,
    pub worker: WorkerId,
    pub oom: OutOfMemory,
    /// What followed for the next attempt.
    pub then: String,
}

impl OomNote {
    /// The note that a journal's entry holds, if it is about such an attempt.
    pub fn of(entry: &Entry) -> Option<Self> {
        match entry {
            Entry::Failed {
                chunk,
                attempt,
                worker,
                failure: Failure::OutOfMemory(oom),
                then,
                ..
            } => Some(Self {
                chunk: *chunk,
                attempt: *attempt,
                worker: worker.clone(),
                oom: oom.clone(),
                then: then.clone().unwrap_or_default(),
            }),
            _ => None,
        }
    }

    fn is_same_attempt(&self, other: &Self) -> bool {
        (self.chunk, self.attempt, &self.worker) == (other.chunk, other.attempt, &other.worker)
    }
}

/// The log of one job.
pub(super) struct JobLog {
    journal: Journal,
    /// Attempts that ran out of memory, in order, those of earlier runs first.
    ooms: Vec<OomNote>,
    /// Attempts of this run that did not end well, by reason.
    retries: BTreeMap<RetryClass, u64>,
    observer: mpsc::UnboundedSender<JobEvent>,
}

impl JobLog {
    pub(super) fn open(folder: &Path, observer: mpsc::UnboundedSender<JobEvent>) -> Self {
        Self {
            journal: Journal::open(folder),
            ooms: Vec::new(),
            retries: BTreeMap::new(),
            observer,
        }
    }

    /// A coordinator takes the job on.
    pub(super) fn begin(&mut self, spec: &JobSpec, settings: &JobSettings, chunks: &Chunks, epoch: u64) {
        self.journal.note(Entry::RunBegins {
            job: spec.id,
            epoch,
            analyze_chunks: chunks.analyze.len(),
            render_chunks: chunks.render.len(),
            frames: spec.frames,
            chunk_frames: spec.chunk_frames,
            cpu_fallback: Some(settings.cpu_fallback),
            unplaceable_wait_seconds: settings.unplaceable_wait.as_secs(),
        });
    }

    /// A render task was published.
    pub(super) fn on_placed(&mut self, task: &Task, queue: Queue, planned: Planned) {
        let fit = planned.fit;
        self.journal.note(Entry::Placed {
            chunk: task.chunk.name(),
            attempt: task.attempt,
            queue,
            kind: fit.constraints.kind,
            floor: fit.constraints.floor,
            need_mib: fit.need_mib,
            needs: fit.constraints.needs,
            why: planned.why.to_owned(),
        });
    }

    /// A task was taken out of the queue, to be placed anew.
    pub(super) fn on_taken_back(&mut self, chunk: ChunkId, attempt: Attempt, queue: Queue, why: String) {
        tracing::info!(%chunk, %queue, why, "taken out of the queue to be placed anew");
        self.journal.note(Entry::TakenBack {
            chunk: chunk.name(),
            attempt,
            queue,
            why,
        });
    }

    /// A chunk fits no live worker, and begins to wait for a bigger one.
    pub(super) fn on_unplaced(
        &mut self,
        chunk: ChunkId,
        range: FrameRange,
        reason: String,
        at_most: Duration,
    ) {
        self.journal.note(Entry::Waits {
            chunk: chunk.name(),
            why: reason.clone(),
        });
        self.notify(JobEvent::ChunkUnplaced {
            chunk,
            range,
            reason,
            at_most,
        });
    }

    /// A worker said that it began a task.
    pub(super) fn on_started(&mut self, chunk: ChunkId, attempt: Attempt, worker: &WorkerId) {
        self.journal.note(Entry::Started {
            chunk: chunk.name(),
            attempt,
            worker: worker.clone(),
        });
    }

    /// A record of this coordinator's time counts.
    pub(super) fn on_done(&mut self, record: &DoneRecord, frames: u64) {
        self.journal.note(Entry::Done {
            chunk: record.chunk.name(),
            attempt: record.attempt,
            worker: record.worker.clone(),
            frames,
            numerics_fingerprint: record.numerics_fingerprint.clone(),
            memory: record.memory.clone(),
        });
    }

    /// An attempt ended without a result. What a worker reported is in the journal already.
    pub(super) fn on_end(
        &mut self,
        chunk: ChunkId,
        attempt: Attempt,
        cause: &Cause,
        is_reported: bool,
        then: Option<String>,
    ) {
        *self.retries.entry(cause.class).or_default() += 1;
        if !is_reported {
            self.journal.note(Entry::Ended {
                chunk: chunk.name(),
                attempt,
                reason: cause.reason.clone(),
                then,
            });
        }
    }

    /// A chunk is in another state now; `requeued` says why it is back in the backlog, and for how long.
    pub(super) fn on_move(
        &mut self,
        chunk: ChunkId,
        range: FrameRange,
        next: ChunkState,
        requeued: Option<(String, Duration)>,
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
                self.journal.note(Entry::GivenUp {
                    chunk: chunk.name(),
                    reason: reason.clone(),
                });
                self.notify(JobEvent::ChunkQuarantined { chunk, range, reason });
            }
            Phase::Backlog => {
                if let Some((reason, delay)) = requeued {
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

    /// Appends the entry of an attempt that failed; if it ran out of memory, the report lists it.
    pub(super) fn note_failure(&mut self, entry: Entry) {
        self.ooms.extend(OomNote::of(&entry));
        self.journal.note(entry);
    }

    /// The same for an attempt that no longer counted: only running out of memory is worth an entry, and only the
    /// first report of it.
    pub(super) fn note_late_failure(&mut self, entry: Entry) {
        let is_new = |note: &OomNote| !self.ooms.iter().any(|known| known.is_same_attempt(note));
        if OomNote::of(&entry).as_ref().is_some_and(is_new) {
            self.note_failure(entry);
        }
    }

    /// Lists an attempt of an earlier run that ran out of memory.
    pub(super) fn recall(&mut self, note: OomNote) {
        self.ooms.push(note);
    }

    pub(super) fn ooms(&self) -> &[OomNote] {
        &self.ooms
    }

    pub(super) fn retries(&self) -> &BTreeMap<RetryClass, u64> {
        &self.retries
    }

    /// Logs an event of the job, and sends it to whoever watches.
    pub(super) fn notify(&self, event: JobEvent) {
        event.log();
        self.send(event);
    }

    /// Sends an event that is logged already, because it is about the farm.
    pub(super) fn send(&self, event: JobEvent) {
        // Nobody has to watch.
        let _ = self.observer.send(event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal;
    use latentfarm_common::wire::memory::{DeviceKind, MemoryPlan, MemoryStage};

    fn failed(worker: &str, number: u32, failure: Failure) -> Entry {
        Entry::Failed {
            chunk: "r00001".parse().unwrap(),
            attempt: Attempt { epoch: 1, number },
            worker: worker.parse().unwrap(),
            failure,
            queue: None,
            then: None,
        }
    }

    fn out_of_memory(worker: &str, number: u32) -> Entry {
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
    fn a_late_failure_is_listed_once_and_only_if_it_was_for_memory() {
        let folder = tempfile::tempdir().unwrap();
        let (observer, _events) = mpsc::unbounded_channel();
        let mut log = JobLog::open(folder.path(), observer);
        log.note_failure(out_of_memory("w1", 0));
        log.note_late_failure(out_of_memory("w1", 0));
        log.note_late_failure(out_of_memory("w2", 0));
        log.note_late_failure(out_of_memory("w2", 1));
        log.note_late_failure(out_of_memory("w2", 1));
        let transient = Failure::Transient {
            message: "the link went down".to_owned(),
        };
        log.note_late_failure(failed("w3", 0, transient));
        let listed: Vec<_> = log
            .ooms()
            .iter()
            .map(|oom| (oom.worker.as_str(), oom.attempt.number))
            .collect();
        assert_eq!(listed, [("w1", 0), ("w2", 0), ("w2", 1)]);
        assert_eq!(journal::read(folder.path()).unwrap().len(), 3);
    }
}
